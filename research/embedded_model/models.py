"""The untrained embedded models: a new tokenizer, and the architectures of the two committed models.

Qwen2.5-VL looks at two frames at once and has four visual tokens for them. LLaVA-OneVision looks at one
frame, has four visual tokens for it, and leaves it to the language model to relate frames. Their
`config.json` say the rest; both are architectures of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from tempo.engine.ranks import pick_device
from tempo.model.chat import VideoLM
from tempo.model.loading import embedded_path, repair_torchvision
from tempo.model.prefix import inner_model, language_model
from tempo.model.support import use_shared_prefix
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import language
from tempo.synthetic.world import make_story

#: Side in pixels of the frames that the models see.
FRAME_SIZE = 64
VOCABULARY_SIZE = 640

#: The placeholder of a video in a prompt.
VIDEO = "<|video_pad|>"
PAD, END = "<|endoftext|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", VIDEO, "<|image_pad|>")
SPECIAL_TOKENS = (PAD, "<|im_start|>", END, *VISION)

#: Directories with the configuration, processor and chat template of each architecture.
ARCHITECTURES = {"qwen2_5_vl": embedded_path(), "llava_onevision": Path(__file__).parent / "llava"}

#: In what a size differs from the configuration: 3.6 M parameters become 37 M, to see whether results hold
#: with size. The tower keeps its depth, because its task is the same; layers are few and wide, because small
#: kernels leave a GPU idle.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {},
    "large": {
        "text_config": {
            "hidden_size": 640,
            "intermediate_size": 1792,
            "num_hidden_layers": 6,
            "layer_types": ["full_attention"] * 6,
            "num_attention_heads": 10,
            "num_key_value_heads": 10,
        },
        "vision_config": {
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_heads": 8,
            "out_hidden_size": 640,
        },
    },
}


def build_model(architecture: str, *, size: str = "small", seed: int = 0, device: str = "auto") -> VideoLM:
    """The untrained model on its device, with its processor.

    Weights are drawn on the CPU from `seed`, so they are the same on every device. Raises ValueError for an
    unknown architecture or size.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; use one of {', '.join(ARCHITECTURES)}")
    if size not in SIZES or (size != "small" and architecture != "qwen2_5_vl"):
        raise ValueError(
            f"size {size!r}: use one of {', '.join(SIZES)} with qwen2_5_vl, and small with others"
        )
    repair_torchvision()
    processor = transformers.AutoProcessor.from_pretrained(ARCHITECTURES[architecture])
    processor.tokenizer = make_tokenizer()
    config = transformers.AutoConfig.from_pretrained(ARCHITECTURES[architecture], dtype=torch.float32)
    config.text_config.vocab_size = len(processor.tokenizer)
    for part, values in SIZES[size].items():
        for name, value in values.items():
            setattr(getattr(config, part), name, value)
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    use_shared_prefix(model)
    return VideoLM(model.to(pick_device(device)), processor)


def vision_parameters(model: Any) -> list[nn.Parameter]:
    """All parameters outside the language model and its head: vision tower, projector, separators."""
    text = {id(parameter) for parameter in language_model(model).parameters()}
    return [parameter for parameter in inner_model(model).parameters() if id(parameter) not in text]


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer with one token for each word of the world; other text is bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=["<|im_start|>", *VISION],
        model_max_length=4096,
        padding_side="left",
    )


def _corpus() -> Iterator[str]:
    """Enough text for every word of the world to become a token."""
    yield from [*DESCRIBE, DIFFERENCE, FIRST_CLIP, "system\nuser\nassistant\n"] * 200
    yield from [f"{word}, a. {word}, a" for word in language.ORDINALS] * 200
    for index in range(1500):
        rng = np.random.default_rng([7, index])
        story = make_story(7, index, num_shots=(2, 16))
        for question, answer in language.instructions(story, rng, order_fidelity=1.0):
            yield f"{question}\n{answer}"
        yield fusion([language.caption(event) for event in story.events])
        yield language.difference(story.events[0], story.events[1])
