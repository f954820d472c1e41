"""Loading any Hugging Face video-language checkpoint, the embedded one included, and its processor."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tempo.config import ModelConfig
from tempo.engine.ranks import pick_device as pick_device
from tempo.model.attention import NAME, register_shared_prefix
from tempo.model.paths import check_model_path, resolve_model_path
from tempo.model.prefix import Continuation, Group, language_model
from tempo.model.support import check_processor, check_support

#: Stands for the user's words while a chat template is taken apart; no template contains it.
MARK = "\x1a"


@dataclass(frozen=True)
class VideoLM:
    """A model with its processor, and how to turn frames and words into groups for the shared prefix."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def prompt_text(self, prompt: str, *, with_video: bool) -> str:
        """The prompt as the chat template writes it, up to where the answer starts."""
        content: list[dict[str, str]] = [{"type": "video"}] if with_video else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))

    @property
    def end_of_answer(self) -> str:
        """What the chat template writes after an answer: the end-of-turn token."""
        messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": MARK}]}
        text = self.processor.apply_chat_template([*messages, answer])
        return str(text.split(MARK)[1].strip() or self.tokenizer.eos_token)

    def inputs(self, text: str, frames: np.ndarray | None, *, fps: float) -> dict[str, Any]:
        """What the processor makes of a templated text and frames (uint8 [T, H, W, 3], taken at `fps`)."""
        if frames is None:
            return dict(self.processor(text=[text], return_tensors="pt"))
        from transformers.video_utils import VideoMetadata

        count = len(frames)
        metadata = VideoMetadata(total_num_frames=count, fps=fps, frames_indices=list(range(count)))
        batch = self.processor(
            text=[text],
            videos=[torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
        )
        return {name: value for name, value in batch.items() if isinstance(value, (torch.Tensor, list))}

    def answer_group(
        self, frames: np.ndarray | None, prompt: str, answers: Sequence[str], *, fps: float
    ) -> Group:
        """Several answers to one prompt: the prefix is video and prompt."""
        text = self.prompt_text(prompt, with_video=frames is not None)
        end = self.end_of_answer
        continuations = tuple(Continuation(self._tokens(answer + end)) for answer in answers)
        return Group(tensors(self.inputs(text, frames, fps=fps)), continuations)

    def question_group(
        self, frames: np.ndarray | None, questions: Sequence[tuple[str, str]], *, fps: float
    ) -> Group:
        """Several (question, answer) about one video: the prefix is the video alone."""
        before, after = self.prompt_text(MARK, with_video=frames is not None).split(MARK)
        end = self.end_of_answer
        continuations = []
        for question, answer in questions:
            context = self._tokens(question + after)
            continuations.append(Continuation(context + self._tokens(answer + end), len(context)))
        return Group(tensors(self.inputs(before, frames, fps=fps)), tuple(continuations))

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def tensors(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A processor's output with every list of numbers as a tensor."""
    return {
        name: value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, value in inputs.items()
    }


def load_processor(config: ModelConfig) -> Any:
    """The processor of a model, without its weights; raises ValueError that names the path."""
    repair_torchvision()
    from transformers import AutoProcessor

    check_model_path(config.path)
    path = resolve_model_path(config.path)
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"model.path {config.path!r} cannot be loaded: {error}") from error
    check_processor(processor)
    return processor


def load_video_lm(config: ModelConfig) -> VideoLM:
    """The model, on its device and in evaluation mode, and its processor.

    Raises ValueError that names the path if it cannot be loaded.
    """
    # First, since it repairs what transformers needs.
    processor = load_processor(config)
    register_shared_prefix()
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    # Phases load a checkpoint each: a bar per load would drown the run's own progress.
    logging.disable_progress_bar()
    path = resolve_model_path(config.path)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, trust_remote_code=config.trust_remote_code, **_quantized(config, device, dtype)
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"model.path {config.path!r} cannot be loaded: {error}") from error
    use_shared_prefix(model)
    # bitsandbytes has put its weights where they belong, and refuses to be moved.
    return VideoLM((model if config.quantization != "none" else model.to(device)).eval(), processor)


def _quantized(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is told where the checkpoint is held in four bits."""
    if config.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model.quantization {config.quantization!r} needs bitsandbytes: install the extra `quantize`"
        )
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": four_bits, "device_map": {"": device}}


def use_shared_prefix(model: Any) -> None:
    """Switches the language model, and it alone, to shared-prefix attention.

    Raises ValueError for a model that it cannot serve.
    """
    check_support(model)
    text_config = model.config.get_text_config()
    names = [n for n in model.config.sub_configs if getattr(model.config, n, None) is text_config]
    if not names:
        raise ValueError(f"{type(model).__name__} keeps its language model in an unknown place")
    model.set_attn_implementation({names[0]: NAME})
    if language_model(model).config._attn_implementation != NAME:
        raise ValueError(f"{type(model).__name__} does not take another attention for its language model")


def check_device(name: str) -> None:
    """Raises ValueError for a device that this machine does not have."""
    device = pick_device(name)
    if (device.index or 0) >= torch.get_device_module(device).device_count():
        raise ValueError(f"model.device {name!r} is not on this machine; give 'auto', or another device")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]


def repair_torchvision() -> None:
    """Lets a torchvision whose compiled part is absent be imported; does nothing otherwise.

    PyPI's torchvision expects CUDA's torch and fails beside the CPU build, because it registers meta kernels
    for two operators that only its compiled part defines. transformers needs just the Python part.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed: pip install --no-deps torchvision (see README)")
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401
