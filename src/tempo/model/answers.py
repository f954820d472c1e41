"""Requests to a model and its answers, whether the model runs in this process or on a server."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from tempo.config import SamplingConfig
from tempo.core.records import Skipped

THINK = "<think>"
END_OF_THINKING = "</think>"

#: The reasoning before an answer. The opening tag may be missing: some chat templates end the prompt with it.
_REASONING = re.compile(rf"\s*(?:{THINK})?.*?{END_OF_THINKING}\s*", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """A prompt and a seed, with frames uint8 [T, H, W, 3] or None; `fps` and `seconds` as in a Prefix."""

    prompt: str
    seed: int
    frames: np.ndarray | None = None
    fps: float = 1.0
    seconds: Sequence[float] = ()


@dataclass(frozen=True)
class Answer:
    """A sampled text. `is_whole` is False if the token limit cut it off; `failure` is a server's error.

    `token_ids` are the sampled tokens, with the one that ends the answer; empty if a server sampled them.
    """

    text: str
    is_whole: bool
    failure: str = ""
    token_ids: tuple[int, ...] = field(default=(), compare=False)


class Generate(Protocol):
    """Samples one answer per request, in order, without its reasoning. Answers are independent."""

    def __call__(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]: ...


def without_reasoning(answer: Answer, *, is_open: bool = False) -> Answer:
    """The answer without the reasoning before it; `is_open` if the prompt ends with the opening tag.

    If the token limit cut off the reasoning, the result is an empty answer with `is_whole=False`.
    """
    if reasoning := _REASONING.match(answer.text):
        return replace(answer, text=answer.text[reasoning.end() :])
    if is_open or answer.text.lstrip().startswith(THINK):
        return replace(answer, text="", is_whole=False)
    return answer


def skip_if_failed(answers: Sequence[Answer | None], *, stage: str, id: str) -> Skipped | None:
    """A Skipped record with the reason for the first failure, or None if no request failed."""
    failures = [answer.failure for answer in answers if answer and answer.failure]
    if not failures:
        return None
    detail = f"{len(failures)} of {len(answers)} requests failed: {failures[0]}"
    return Skipped(stage=stage, id=id, reason="endpoint", detail=detail)
