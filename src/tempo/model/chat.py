"""A model with its processor: frames and text become tokens, and log-probabilities of answers.

`VideoLM.group` is the only function that converts a prompt and its answers to token ids and spans of scored
tokens. It tokenizes the whole conversation and finds the answer in it.
"""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tempo.model.answers import Request
from tempo.model.prefix import (
    MAX_TOKENS,
    ContinuationTokens,
    Group,
    encode_videos,
    inner_model,
    packed_log_probs,
    split_group,
)
from tempo.model.template import Template, template_of


@dataclass(frozen=True)
class Prefix:
    """The shared start of several continuations: frames uint8 [T, H, W, 3] (None: no video) and a prompt.

    The frames were sampled at `fps` frames per second. `seconds` are their times, by default the middle of
    each interval of 1 / `fps`. If `system` is empty, the chat template chooses the system prompt.
    """

    frames: np.ndarray | None
    prompt: str
    _: KW_ONLY
    fps: float = 1.0
    seconds: Sequence[float] = ()
    system: str = ""


@dataclass(frozen=True)
class Continuation:
    """An answer to score. A `question` is appended to the prompt of the prefix; it is not scored."""

    answer: str
    question: str = ""


@dataclass(frozen=True)
class _Conversation:
    """The text and tokens of a conversation, the index of the answer, and the tokens up to its end."""

    text: str
    ids: list[int]
    first: int
    scored: list[int]


@dataclass(frozen=True)
class VideoLM:
    """A model and its processor."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def template(self) -> Template:
        return template_of(self.processor)

    def end_ids(self, *, with_video: bool) -> set[int]:
        """The tokens that end an answer: those of the checkpoint, and the template's end-of-turn token."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        after = self.template.tokenize(self.template.after_answer[with_video])["input_ids"]
        turn = [token for token in after if token in self.template.special_ids][:1]
        return {*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id, *turn} - {None}

    def inputs(self, texts: Sequence[str], videos: Sequence[Prefix | Request] = ()) -> dict[str, Tensor]:
        """The processor's inputs for rendered texts, padded on the left, on the CPU.

        `videos` has the frames for each text, if it has any, with their rate and times. Only the times of the
        frames that are given are used. Some model families write them into the prompt.
        """
        processor = self.template.processor
        # A single row needs no padding, and not every tokenizer has a padding token.
        arguments: dict[str, Any] = {"text": list(texts), "return_tensors": "pt"}
        arguments["add_special_tokens"] = self.template.adds_special_tokens(texts[0])
        positions = None if self.model is None else getattr(inner_model(self.model), "get_rope_index", None)
        if positions and "mm_token_type_ids" in inspect.signature(positions).parameters:
            # Some processors return them only on request (Cosmos 3 Edge).
            arguments["return_mm_token_type_ids"] = True
        if len(texts) > 1:
            arguments |= {"padding": True, "padding_side": "left"}
        least = getattr(processor.video_processor, "temporal_patch_size", None) or 1
        clips = [_clip(video, least) for video in videos if video.frames is not None]
        if clips:
            # Some processors need the returned metadata to write time stamps.
            arguments |= {"do_sample_frames": False, "return_metadata": True}
            arguments["videos"] = [frames for frames, _ in clips]
            arguments["video_metadata"] = [metadata for _, metadata in clips]
        batch = dict(processor(**arguments))
        batch.pop("video_metadata", None)
        if "video_second_per_grid" in batch:
            # Qwen Omni's processor assumes a fixed rate.
            steps = processor.video_processor.temporal_patch_size
            batch["video_second_per_grid"] = [steps / metadata.fps for _, metadata in clips]
        # Some processors return lists instead of tensors, and settings that are not inputs of the model.
        return {
            name: torch.as_tensor(value) for name, value in batch.items() if isinstance(value, (Tensor, list))
        }

    def group(self, prefix: Prefix, continuations: Sequence[str | Continuation]) -> Group:
        """Tokens and pixels of a prefix, and the tokens of its continuations with the spans to score.

        The prefix consists of the leading tokens that all conversations share. Prefix and continuation
        together are the whole conversation up to the end-of-turn token, which is also scored.
        """
        special = self.template.special_ids | self.end_ids(with_video=prefix.frames is not None)
        rows = [Continuation(row) if isinstance(row, str) else row for row in continuations]
        rendered = [self._conversation(prefix, row, special) for row in rows]
        shared = min(row.first for row in rendered)
        columns = zip(*(row.ids[:shared] for row in rendered), strict=True)
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        inputs = self.inputs([rendered[0].text], [prefix])
        # The processor has expanded the video placeholder; the tokens after it must be the same.
        rest = rendered[0].ids[shared:]
        shape = inputs["input_ids"].shape
        if inputs["input_ids"][0, shape[1] - len(rest) :].tolist() != rest:
            raise ValueError(
                "The chat template puts the video after the question, so several questions cannot share it. "
                "Set grouping = 'pair' in the phase"
            )
        inputs = {
            name: value[:, : shape[1] - len(rest)] if value.shape == shape else value
            for name, value in inputs.items()
        }
        return Group(
            inputs,
            tuple(ContinuationTokens(tuple(row.scored[shared:]), row.first - shared) for row in rendered),
        )

    def _conversation(self, prefix: Prefix, row: Continuation, special_ids: set[int]) -> _Conversation:
        """The rendered conversation of one continuation; `special_ids` may end its answer."""
        with_video, prompt = prefix.frames is not None, prefix.prompt + row.question
        text = self.template.render(prompt, answer=row.answer, system=prefix.system, with_video=with_video)
        end = len(text) - len(self.template.after_answer[with_video])
        # Templates may strip the white space around an answer.
        before, answer = text[:end].rstrip(), self.template.escape(row.answer).strip()
        if not before.endswith(answer):
            raise ValueError(
                f"The chat template of the model changes the answer {row.answer[:80]!r}, so it cannot be "
                "scored. Leave this answer out, or use a checkpoint with another template"
            )
        tokens = self.template.tokenize(text)
        ids: list[int] = tokens["input_ids"]
        # Offsets may exclude the leading white space of a token, so only their ends can be compared.
        ends = [stop for _, stop in tokens["offset_mapping"]]

        def count(place: int) -> int:
            return sum(1 for _ in takewhile(lambda stop: stop <= place, ends))

        first, after = count(len(before) - len(answer)), count(end)
        special = [i for i in range(after, len(ends)) if ids[i] in special_ids]
        scored = ids[: special[-1] + 1] if special else [*ids[:after], self.tokenizer.eos_token_id]
        return _Conversation(text, ids, first, scored)


def _clip(video: Prefix | Request, least: int) -> tuple[Tensor, Any]:
    """Frames [T, 3, H, W] and their metadata; the last frame is repeated if there are fewer than `least`."""
    from transformers.video_utils import VideoMetadata

    assert video.frames is not None
    count, fps = len(video.frames), video.fps
    missing = max(0, least - count)
    frames = np.pad(video.frames, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
    # Processors divide the indices by the rate.
    indices = [second * fps for second in video.seconds[:count]] or [index + 0.5 for index in range(count)]
    indices += indices[-1:] * missing
    count += missing
    metadata = VideoMetadata(total_num_frames=count, fps=fps, duration=count / fps, frames_indices=indices)
    return torch.from_numpy(frames).permute(0, 3, 1, 2), metadata


def log_probs(
    model: VideoLM,
    prefix: Prefix,
    continuations: Sequence[str | Continuation],
    *,
    reduction: Literal["sum", "mean", "none"] = "sum",
    max_tokens: int = MAX_TOKENS,
) -> list[Tensor]:
    """Log-probabilities of continuations under the model, in float32, with gradients.

    Each continuation is scored given the prefix and its question, including its end-of-turn token. The result
    has one tensor per continuation: a scalar for the reductions "sum" and "mean" over its tokens, or
    [num_tokens] for "none". The video is encoded once for all continuations. The prefix is processed once for
    as many continuations as fit into `max_tokens` tokens together with it. The values equal those of one full
    sequence per continuation. Raises ValueError if a full sequence has more tokens than the model supports.
    """
    group = model.group(prefix, continuations)
    first = continuations[0]
    name = prefix.prompt + ("" if isinstance(first, str) else first.question)
    check_length(model, group, f"{name[:60]!r}", limit=max_positions(model.model.config))
    features = encode_videos(model.model, [group])
    parts = split_group(group, max_tokens=max_tokens)
    packed = (packed_log_probs(model.model, [part], video_features=features) for part in parts)
    logps = [logp for (found,) in packed for logp in found]
    if reduction == "none":
        return logps
    return [logp.sum() if reduction == "sum" else logp.mean() for logp in logps]


def max_positions(config: Any) -> int:
    """The largest number of tokens, prompt and answer together, that a model supports."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def check_length(model: VideoLM, group: Group, name: str, **limits: Any) -> None:
    """Raises ValueError for `name` if prefix and longest continuation exceed a limit of `check_positions`."""
    num_prefix, *sizes = group.lengths
    num_video = int(torch.isin(group.inputs["input_ids"], torch.tensor([*model.template.media_ids])).sum())
    num_text = num_prefix - num_video + max(sizes)
    check_positions(name, num_video=num_video, num_text=num_text, **limits)


def check_positions(
    name: str, *, num_video: int, num_text: int, limit: int, rate: str = "frames.fps, frames.max_frames"
) -> None:
    """Raises ValueError for `name` if its video and text together have more than `limit` tokens.

    `rate` are the options that set the number of frames.
    """
    if num_video + num_text > limit:
        keys = f"{rate}, frames.max_pixels or frames.max_total_pixels"
        advice = f"Lower {keys}" if num_text < min(limit, num_video) else "Shorten its texts, or leave it out"
        raise ValueError(
            f"{name}: prompt and answer have {num_video + num_text} tokens, {num_video} from frames and "
            f"{num_text} from text. The model supports at most {limit} (its max_position_embeddings). "
            f"{advice}"
        )
