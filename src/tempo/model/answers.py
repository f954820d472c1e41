"""What a stage asks of a model and what it hears, and where answers come from: this process or a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tempo.config import SamplingConfig
from tempo.core.records import Skipped
from tempo.engine.types import Context

THINK = "<think>"

#: What a reasoning model wrote before its answer; some chat templates open it within the prompt.
_THOUGHTS = re.compile(rf"\s*(?:{THINK})?.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """One answer to draw: frames uint8 [T, H, W, 3] taken at `fps` (None: words only), a prompt, a seed."""

    prompt: str
    seed: int
    frames: np.ndarray | None = None
    fps: float = 1.0


@dataclass(frozen=True)
class Answer:
    """What the model said; not `is_whole` if the token limit cut it.

    With a `failure`, the reason why a server gave no answer at all, there is no text.
    """

    text: str
    is_whole: bool
    failure: str = ""


class Generate(Protocol):
    """Draws one answer per request, in order."""

    def __call__(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        """The answers; none depends on what else is asked."""


def answer_source(context: Context) -> Generate:
    """The server of the [endpoint] section, else the model itself, loaded now; what it thinks is left out."""
    draw = _endpoint(context) or _local(context)

    def generate(
        requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        answers = draw(requests, sampling=sampling, max_new_tokens=max_new_tokens)
        return [without_thoughts(answer) for answer in answers]

    return generate


def _endpoint(context: Context) -> Generate | None:
    if context.config.endpoint is None:
        return None
    from tempo.model.endpoint import Endpoint

    return Endpoint(context.config.endpoint, context.directory).generate


def _local(context: Context) -> Generate:
    from tempo.model.generation import generate
    from tempo.model.loading import load_video_lm

    lm = load_video_lm(context.config.model)
    return lambda requests, *, sampling, max_new_tokens: generate(
        lm, requests, sampling=sampling, max_new_tokens=max_new_tokens
    )


def without_thoughts(answer: Answer) -> Answer:
    """The answer less the thoughts before it; empty and cut where the model never came to the end of them."""
    if thoughts := _THOUGHTS.match(answer.text):
        return replace(answer, text=answer.text[thoughts.end() :])
    if answer.text.lstrip().startswith(THINK):
        return replace(answer, text="", is_whole=False)
    return answer


def failure_drop(answers: Sequence[Answer | None], *, stage: str, id: str) -> Skipped | None:
    """The drop of a record that a server failed to answer; None if it answered everything."""
    failures = [answer.failure for answer in answers if answer is not None and answer.failure]
    if not failures:
        return None
    detail = f"{len(failures)} of {len(answers)} requests failed: {failures[0]}"
    return Skipped(stage=stage, id=id, reason="endpoint", detail=detail)
