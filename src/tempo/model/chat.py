"""From frames and text to tokens, by the model's own chat template, and the public log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tempo.model.prefix import ContinuationTokens, Group, packed_log_probs

#: Placeholder for the part of a conversation where a rendered template is split. No template contains it.
MARK = "\x1a"


@dataclass(frozen=True)
class Prefix:
    """A prompt and frames uint8 [T, H, W, 3], sampled at `fps` frames per second; None: no video."""

    frames: np.ndarray | None
    prompt: str
    _: KW_ONLY
    fps: float = 1.0


@dataclass(frozen=True)
class Continuation:
    """An answer to score. A `question` comes between prefix and answer: it is read but not scored."""

    answer: str
    question: str | None = None


@dataclass(frozen=True)
class VideoLM:
    """A model and its processor."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def prompt_text(self, prompt: str, *, with_video: bool) -> str:
        """The prompt as the chat template writes it, up to the start of the answer."""
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

    def inputs(
        self, texts: Sequence[str], videos: Sequence[np.ndarray] | None = None, *, fps: Sequence[float] = ()
    ) -> dict[str, Tensor]:
        """The processor's batch for rendered texts, padded on the left; on the CPU.

        `videos` has frames uint8 [T, H, W, 3] for each text, sampled at `fps` frames per second.
        """
        # A single row needs no padding, and not every tokenizer has a padding token.
        arguments: dict[str, Any] = {"text": list(texts), "return_tensors": "pt"}
        if len(texts) > 1:
            arguments |= {"padding": True, "padding_side": "left"}
        if videos is not None:
            from transformers.video_utils import VideoMetadata

            arguments["videos"] = [torch.from_numpy(v.copy()).permute(0, 3, 1, 2) for v in videos]
            arguments["video_metadata"] = [
                VideoMetadata(total_num_frames=len(v), fps=rate, frames_indices=list(range(len(v))))
                for v, rate in zip(videos, fps, strict=True)
            ]
            arguments["do_sample_frames"] = False
        batch = dict(self.processor(**arguments))
        batch.pop("video_metadata", None)
        # Some processors return lists for some inputs, and settings that are not inputs of the model.
        return {
            name: torch.as_tensor(value) for name, value in batch.items() if isinstance(value, (Tensor, list))
        }

    def group(self, prefix: Prefix, continuations: Sequence[str | Continuation]) -> Group:
        """Tokens and pixels of a prefix, and the tokens of its continuations with the spans to score.

        Each answer ends with the end-of-turn token. Raises ValueError if only some continuations have a
        question.
        """
        rows = [Continuation(row) if isinstance(row, str) else row for row in continuations]
        has_question = any(row.question is not None for row in rows)
        if has_question and any(row.question is None for row in rows):
            raise ValueError("Only some continuations have a question. Score them in two calls")
        mark = MARK if has_question else ""
        before = self.prompt_text(prefix.prompt + mark, with_video=prefix.frames is not None)
        before, between = before.split(MARK) if has_question else (before, "")
        end = self.end_of_answer

        def tokenize(text: str) -> tuple[int, ...]:
            return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        tokens = []
        for row in rows:
            context = () if row.question is None else tokenize(row.question + between)
            tokens.append(ContinuationTokens(context + tokenize(row.answer + end), len(context)))
        videos = None if prefix.frames is None else [prefix.frames]
        return Group(self.inputs([before], videos, fps=[prefix.fps]), tuple(tokens))


def log_probs(
    model: VideoLM,
    prefix: Prefix,
    continuations: Sequence[str | Continuation],
    *,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> list[Tensor]:
    """Log-probabilities of continuations under the model, in float32, with gradients.

    Each continuation is scored after the prefix (and its question), its end-of-turn token included. The
    result has one tensor per continuation: a scalar for the reductions "sum" and "mean" over its tokens, or
    [num_tokens] for "none". The video is encoded once and the prefix is read once, whatever the number of
    continuations; the values equal those of one full sequence per continuation.
    """
    (logps,) = packed_log_probs(model.model, [model.group(prefix, continuations)])
    if reduction == "none":
        return logps
    return [logp.sum() if reduction == "sum" else logp.mean() for logp in logps]
