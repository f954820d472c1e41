"""Converts frames and text to tokens with the model's own chat template.

`VideoLM.group` is the only function that converts a prompt and its answers to token ids and spans of scored
tokens. It tokenizes the whole conversation and finds the answer in it. Text from users and models is escaped
first, so that no word in it becomes a special token.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tempo.core.files import replace_surrogates
from tempo.model.limits import check_positions, max_positions
from tempo.model.prefix import (
    MAX_TOKENS,
    ContinuationTokens,
    Group,
    encode_videos,
    inner_model,
    packed_log_probs,
    split_group,
)

#: Inserted into special words in text from users and models, so that neither processor nor tokenizer
#: recognizes them; the tokenizer removes it. A Unicode noncharacter, which ordinary text does not contain.
ESCAPE = "\ufdd0"

#: Placeholder for an answer in a rendered conversation.
MARK = "\ufdd1"

_NONCHARACTERS = re.compile(f"[{ESCAPE}{MARK}]")


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


class _Rendered:
    """A rendered and tokenized conversation: its ids, the start of the answer, and the scored tokens."""

    def __init__(
        self, lm: VideoLM, prefix: Prefix, row: Continuation, *, num_after: int, special_ids: set[int]
    ) -> None:
        self.text = lm.render(
            prefix.prompt + row.question,
            answer=row.answer,
            system=prefix.system,
            with_video=prefix.frames is not None,
        )
        end = len(self.text) - num_after
        start = end - len(_find_at_end(self.text[:end], lm.escape(row.answer)))
        tokens = lm.tokenize(self.text, offsets=True)
        self.ids: list[int] = tokens["input_ids"]
        ends = [stop for _, stop in tokens["offset_mapping"]]
        # Offsets may exclude the leading white space of a token, so only their ends can be compared.
        self.first = sum(1 for _ in takewhile(lambda stop: stop <= start, ends))
        after = sum(1 for _ in takewhile(lambda stop: stop <= end, ends))
        special = [i for i in range(after, len(ends)) if self.ids[i] in special_ids]
        if special:
            self.scored = self.ids[: special[-1] + 1]
        else:
            self.scored = [*self.ids[:after], lm.tokenizer.eos_token_id]


def _find_at_end(text: str, answer: str) -> str:
    """The answer as it appears at the end of `text`; templates may strip its white space."""
    for form in (answer, answer.rstrip(), answer.lstrip(), answer.strip()):
        if text.endswith(form):
            return form
    raise ValueError(
        f"The chat template of the model changes the answer {answer[:80]!r}, so it cannot be scored. "
        "Leave this answer out, or use a checkpoint with another template"
    )


@dataclass(frozen=True)
class VideoLM:
    """A model and its processor."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def escape(self, text: str) -> str:
        """The text with special words broken up; lone surrogates become U+FFFD."""
        text = replace_surrogates(_NONCHARACTERS.sub("", text))
        return _reader(self.processor).words.sub(lambda word: word[0][0] + ESCAPE + word[0][1:], text)

    def render(
        self, prompt: str, *, answer: str | None = None, system: str = "", with_video: bool = True
    ) -> str:
        """The conversation rendered by the chat template; it ends before the answer if `answer` is None.

        Special words in the texts are escaped, so pass the result only to `tokenize` or `inputs`.
        """
        reader = _reader(self.processor)
        turns = [("user", self.escape(prompt), with_video)]
        if answer is not None:
            turns.append(("assistant", self.escape(answer), False))
        if system:
            if reader.has_system_turn:
                turns.insert(0, ("system", self.escape(system), False))
            else:
                turns[0] = ("user", f"{self.escape(system)}\n\n{turns[0][1]}", with_video)
        return reader.render(turns, add_generation_prompt=answer is None)

    def after_answer(self, *, with_video: bool) -> str:
        """The text that the chat template appends to an answer."""
        return _after_answer(self.processor, with_video)

    def end_ids(self, *, with_video: bool) -> set[int]:
        """The tokens that end an answer: those of the checkpoint, and the template's end-of-turn token."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        after = self.tokenize(self.after_answer(with_video=with_video))["input_ids"]
        turn = [token for token in after if token in _reader(self.processor).special_ids][:1]
        return {*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id, *turn} - {None}

    @property
    def media_ids(self) -> set[int]:
        """The tokens that stand for videos and images in a prompt."""
        return _reader(self.processor).media_ids

    def tokenize(self, text: str, *, offsets: bool = False) -> Any:
        """`input_ids` of a rendered text, as transformers tokenizes a rendered conversation."""
        tokenizer = _reader(self.processor).processor.tokenizer
        return tokenizer(text, return_offsets_mapping=offsets, add_special_tokens=self._adds_special(text))

    def _adds_special(self, text: str) -> bool:
        """Whether the tokenizer should add special tokens: not if the template has added the first one."""
        bos = self.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def inputs(
        self,
        texts: Sequence[str],
        videos: Sequence[np.ndarray] | None = None,
        *,
        fps: Sequence[float] = (),
        seconds: Sequence[Sequence[float]] = (),
    ) -> dict[str, Tensor]:
        """The processor's inputs for rendered texts, padded on the left, on the CPU.

        `videos` has frames uint8 [T, H, W, 3] for each text; `fps` and `seconds` are their rates and times as
        in `Prefix`. Only the first T times are used. Some model families write them into the prompt.
        """
        # A single row needs no padding, and not every tokenizer has a padding token.
        arguments: dict[str, Any] = {"text": list(texts), "return_tensors": "pt"}
        arguments["add_special_tokens"] = self._adds_special(texts[0])
        positions = None if self.model is None else getattr(inner_model(self.model), "get_rope_index", None)
        if positions and "mm_token_type_ids" in inspect.signature(positions).parameters:
            # Some processors return them only on request (Cosmos 3 Edge).
            arguments["return_mm_token_type_ids"] = True
        if len(texts) > 1:
            arguments |= {"padding": True, "padding_side": "left"}
        if videos is not None:
            from transformers.video_utils import VideoMetadata

            arguments["videos"] = [torch.from_numpy(v.copy()).permute(0, 3, 1, 2) for v in videos]
            arguments["video_metadata"] = [
                VideoMetadata(
                    total_num_frames=len(video),
                    fps=rate,
                    duration=len(video) / rate,
                    # Processors divide the indices by the rate to get seconds.
                    frames_indices=[t * rate for t in times[: len(video)]]
                    or [index + 0.5 for index in range(len(video))],
                )
                for video, rate, times in zip(videos, fps, seconds or [()] * len(videos), strict=True)
            ]
            # Some processors need the returned metadata to write time stamps.
            arguments |= {"do_sample_frames": False, "return_metadata": True}
        batch = dict(_reader(self.processor).processor(**arguments))
        batch.pop("video_metadata", None)
        if "video_second_per_grid" in batch:
            # Qwen Omni's processor assumes a fixed rate.
            steps = _reader(self.processor).processor.video_processor.temporal_patch_size
            batch["video_second_per_grid"] = [steps / rate for rate in fps]
        # Some processors return lists instead of tensors, and settings that are not inputs of the model.
        return {
            name: torch.as_tensor(value) for name, value in batch.items() if isinstance(value, (Tensor, list))
        }

    def group(self, prefix: Prefix, continuations: Sequence[str | Continuation]) -> Group:
        """Tokens and pixels of a prefix, and the tokens of its continuations with the spans to score.

        The prefix consists of the leading tokens that all conversations share. Prefix and continuation
        together are the whole conversation up to the end-of-turn token, which is also scored.
        """
        rows = [Continuation(row) if isinstance(row, str) else row for row in continuations]
        has_video = prefix.frames is not None
        num_after = len(self.after_answer(with_video=has_video))
        special = _reader(self.processor).special_ids | self.end_ids(with_video=has_video)
        rendered = [_Rendered(self, prefix, row, num_after=num_after, special_ids=special) for row in rows]
        shared = min(row.first for row in rendered)
        columns = zip(*(row.ids[:shared] for row in rendered), strict=True)
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        videos = None if prefix.frames is None else [prefix.frames]
        inputs = self.inputs([rendered[0].text], videos, fps=[prefix.fps], seconds=[prefix.seconds])
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


class _Reader:
    """A copy of a processor whose tokenizer removes ESCAPE, and the special words of the processor.

    A word is special if its token is marked as special, if the processor replaces it with media tokens, or if
    it is an added token that appears in the chat template.
    """

    def __init__(self, processor: Any) -> None:
        from tokenizers import normalizers, pre_tokenizers

        self.processor = copy.deepcopy(processor)
        tokenizer = self.processor.tokenizer
        self.processor.chat_template = self.processor.chat_template or tokenizer.chat_template
        # For example `image_token`, `video_token`, `fake_image_token`.
        media = {v for n, v in vars(processor).items() if n.endswith("_token") and isinstance(v, str) and v}
        added = tokenizer.added_tokens_decoder.values()
        words = media | {
            token.content
            for token in added
            if token.special
            or (token.content in str(self.processor.chat_template) and not token.content.isspace())
        }
        self.words = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")
        vocabulary = tokenizer.get_vocab()
        self.special_ids = {vocabulary[word] for word in words if word in vocabulary}
        self.media_ids = {vocabulary[word] for word in media if word in vocabulary}
        backend = tokenizer.backend_tokenizer
        plain = backend.normalizer, backend.pre_tokenizer
        backend.normalizer = normalizers.Sequence([
            normalizers.Replace(ESCAPE, ""), *([plain[0]] if plain[0] else [])
        ])  # fmt: skip
        escaped = [word[0] + ESCAPE + word[1:] for word in words]
        if any(
            self.special_ids & set(ids) for ids in tokenizer(escaped, add_special_tokens=False)["input_ids"]
        ):
            # This tokenizer still merges the letters into the special token, so split the word at ESCAPE.
            backend.normalizer = plain[0]
            split = pre_tokenizers.Split(ESCAPE, behavior="removed")
            backend.pre_tokenizer = pre_tokenizers.Sequence([split, *([plain[1]] if plain[1] else [])])
        # Templates expect the content of a turn either as a list of parts or as one string.
        self.takes_text: set[str] = set()
        user, system = ("user", MARK, False), ("system", MARK, False)
        for turns in (
            [user],
            [("user", "?", False), ("assistant", MARK, False)],
            [system, ("user", "?", False)],
        ):
            (role,) = [role for role, text, _ in turns if text == MARK]
            probe = self._try(turns)
            if MARK not in probe or re.search("['\"]type['\"]", probe):
                self.takes_text.add(role)
        self.has_system_turn = MARK in self._try([system, ("user", "?", False)])

    def render(self, turns: Sequence[tuple[str, str, bool]], **options: Any) -> str:
        """Renders turns (role, text, whether a video precedes the text) with the chat template."""
        messages = []
        for role, text, has_video in turns:
            content: Any = [{"type": "text", "text": text}]
            if has_video:
                content.insert(0, {"type": "video"})
            if role in self.takes_text:
                start, end = (getattr(self.processor, f"vision_{n}_token", "") for n in ("start", "end"))
                content = f"{start}{self.processor.video_token}{end}\n{text}" if has_video else text
            messages.append({"role": role, "content": content})
        return str(self.processor.apply_chat_template(messages, **options))

    def _try(self, turns: Sequence[tuple[str, str, bool]]) -> str:
        """The rendered conversation; empty if the template cannot render it."""
        from jinja2 import TemplateError

        try:
            return self.render(turns)
        except (TemplateError, TypeError, IndexError, KeyError):
            return ""


@functools.lru_cache(maxsize=4)
def _reader(processor: Any) -> _Reader:
    return _Reader(processor)


@functools.lru_cache(maxsize=8)
def _after_answer(processor: Any, with_video: bool) -> str:
    return (
        _reader(processor).render([("user", "?", with_video), ("assistant", MARK, False)]).rpartition(MARK)[2]
    )


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
    num_prefix, *sizes = group.lengths
    num_video = int(torch.isin(group.inputs["input_ids"], torch.tensor([*model.media_ids])).sum())
    counts = {"num_video": num_video, "num_text": num_prefix - num_video + max(sizes)}
    first = continuations[0]
    name = prefix.prompt + ("" if isinstance(first, str) else first.question)
    check_positions(f"{name[:60]!r}", **counts, limit=max_positions(model.model.config))
    features = encode_videos(model.model, [group])
    parts = split_group(group, max_tokens=max_tokens)
    packed = (packed_log_probs(model.model, [part], video_features=features) for part in parts)
    logps = [logp for (found,) in packed for logp in found]
    if reduction == "none":
        return logps
    return [logp.sum() if reduction == "sum" else logp.mean() for logp in logps]
