"""How well a description agrees with the captions of a video's clips, in their order, without labels.

For a score, sentences and captions are matched one to one, so that repeating a sentence gains nothing. For a
reader, each sentence is matched to the clip that it is about, because several may be about the same clip.
S: sentences of a description   C: captions of a video
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempo.preference.perturbations import kendall_distance

#: Minimum similarity of a sentence and the caption that it is matched to.
MIN_SIMILARITY = 0.2


class Agreement(NamedTuple):
    """The agreement of a description with captions. A match counts with its similarity, 0 to 1.

    `recall` is the sum of all matches divided by the number of captions, `precision` the same divided by the
    number of sentences. `order` is the Kendall distance between the order of the matched captions in the
    text and their true order, 0 to 1; None for fewer than two matches.
    """

    recall: float
    precision: float
    order: float | None


def agreement(text: str, captions: Sequence[str]) -> Agreement:
    """Compares a description with the captions of a video's clips, which are in their true order.

    Example: for three captions, a text with the exact third and first one has recall 2/3, precision 1 and
    order 1. A text without sentences agrees with nothing: recall 0, precision 0, order None.
    """
    similarity_SC = similarities(sentences := split_sentences(text), captions)
    matches = match_captions(similarity_SC)
    total = sum(float(similarity_SC[match]) for match in matches)
    order = kendall_distance([clip for _, clip in matches]) if len(matches) > 1 else None
    return Agreement(total / max(1, len(captions)), total / max(1, len(sentences)), order)


def agreement_gain(chosen: str, rejected: str, captions: Sequence[str]) -> float:
    """By how much the chosen text agrees better with the captions than the rejected text does, -1 to 1.

    The agreement is the recall multiplied by 1 minus the Kendall distance, which counts as 0.5, its value for
    a random order, if there are fewer than two matches.
    """
    better, worse = (_agreement(text, tuple(captions)) for text in (chosen, rejected))
    return better - worse


@functools.lru_cache(maxsize=16)  # The pairs of a video share their chosen text.
def _agreement(text: str, captions: tuple[str, ...]) -> float:
    found = agreement(text, captions)
    return found.recall * (1 - (0.5 if found.order is None else found.order))


def match_captions(similarity_SC: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(sentence, caption) pairs with the largest sum of similarities, sorted; each is in at most one pair.

    Pairs below `MIN_SIMILARITY` are left out. Equal captions are taken in the order of the sentences.
    """
    from scipy.optimize import linear_sum_assignment

    places = [np.linspace(0, 1, size) for size in similarity_SC.shape]
    # Of two matchings with equal sums, the one with fewer crossings has the smaller sum of squares.
    preference_SC = similarity_SC - 1e-6 * np.subtract.outer(*places) ** 2
    pairs = zip(*linear_sum_assignment(preference_SC, maximize=True), strict=True)
    return [(int(s), int(c)) for s, c in pairs if similarity_SC[s, c] >= MIN_SIMILARITY]


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a text, stripped."""
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+", text.strip()) if part]


def similarities(sentences: Sequence[str], captions: Sequence[str]) -> NDArray[np.float64]:
    """Cosines [S, C] of TF-IDF vectors; words that many of these captions have in common count less."""
    if not sentences or not any(caption.strip() for caption in captions):
        return np.zeros((len(sentences), len(captions)))
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Parts of words, because the forms of a word differ between a caption and a description.
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit(captions)
    return np.asarray((vectorizer.transform(sentences) @ vectorizer.transform(captions).T).toarray())


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
