"""Which clip each sentence of a description is about, and which sentences are in the order of the clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Minimum similarity of a sentence and the caption that it is matched to.
MIN_SIMILARITY = 0.2


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
    texts = [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+", text.strip()) if part]
    if not texts or not any(caption.strip() for caption in captions):
        return [Sentence(part) for part in texts]
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Parts of words, because the forms of a word differ between a caption and a description.
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit(captions)
    similarity_SC = (vectorizer.transform(texts) @ vectorizer.transform(captions).T).toarray()
    choices = [
        np.flatnonzero(row_C > row_C.max() - 1e-6).tolist() if row_C.max() >= MIN_SIMILARITY else []
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
