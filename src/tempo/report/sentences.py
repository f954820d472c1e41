"""Which clip each sentence of a description is about, and which sentences are in the order of the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tempo.preference.verify import MIN_SIMILARITY, similarities, split_sentences


@dataclass(frozen=True)
class Sentence:
    """A sentence of a description; `clip` is the index of the clip it is about, if any."""

    text: str
    clip: int | None = None
    is_in_order: bool = False


def match_sentences(text: str, captions: Sequence[str]) -> list[Sentence]:
    """The sentences of `text`, each with the clip whose caption it resembles most (TF-IDF, cosine).

    `is_in_order` marks the longest run of sentences in the order of the clips. Among clips with equal
    captions, the one that makes this run longer is chosen.
    """
    texts = split_sentences(text)
    similarity_SC = similarities(texts, captions)
    choices = [
        np.flatnonzero(row_C > row_C.max() - 1e-6).tolist() if row_C.max(initial=0) >= MIN_SIMILARITY else []
        for row_C in similarity_SC
    ]
    ordered = _longest_run(choices)
    return [
        Sentence(part, ordered.get(number, clips[0] if clips else None), number in ordered)
        for number, (part, clips) in enumerate(zip(texts, choices, strict=True))
    ]


def _longest_run(choices: Sequence[Sequence[int]]) -> dict[int, int]:
    """The largest set of sentences whose clips can be in ascending order (or equal), with these clips."""
    runs: list[dict[int, int]] = [{}]
    for number, clips in enumerate(choices):
        earlier = runs.copy()
        for clip in clips:
            fitting = [run for run in earlier if max(run.values(), default=0) <= clip]
            longest = max(fitting, key=lambda run: len(run))
            runs.append({**longest, number: clip})
    return max(runs, key=lambda run: len(run))
