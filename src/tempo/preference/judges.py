"""Judges that never see the video: how often each picks the chosen answer of a pair.

    P: pairs   F: features   W: words   K: folds

A judge looks at the two texts as a difference, so swapping them only turns its answer round: the order in
which they are shown cannot matter, and chance is 50 %. It returns right_P: 1 for the chosen answer, 0 for the
rejected one, 0.5 where both look the same to it. What is fitted has not seen the videos it is asked about.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.core.records import Pair
from tempo.core.seeds import derive_seed
from tempo.preference.selection import log_length_ratio

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM

Array: TypeAlias = NDArray[np.float64]

NUM_FOLDS = 5

#: Words that the classifier looks at: those in which most pairs differ. Bounds its time and memory.
MAX_WORDS = 500

#: Newton steps of a fit; with the penalty the loss is strictly convex, and ten are usually enough.
MAX_STEPS = 50

#: Scores nearer to 0 than this are rounding.
TIE = 1e-9


def longer_right(pairs: Sequence[Pair]) -> Array:
    """The longer answer, in words, is taken for the chosen one."""
    return picks(np.array([log_length_ratio(pair) for pair in pairs]))


def length_right(pairs: Sequence[Pair], *, seed: int) -> Array:
    """Fitted on which answer is longer and by how much: it may come to prefer either."""
    ratio_P = np.array([log_length_ratio(pair) for pair in pairs])
    size = float(np.sqrt(np.mean(ratio_P**2))) or 1.0
    return fitted_right(np.stack([np.sign(ratio_P), ratio_P / size], axis=1), pairs, seed=seed)


def words_right(pairs: Sequence[Pair], *, seed: int) -> tuple[Array, dict[str, list[str]]]:
    """Fitted on which words occur how often; also the words that speak most for either side."""
    words, features_PW = word_features(pairs)
    by_weight = np.argsort(fit(features_PW))
    telling = {
        "chosen": [words[index] for index in by_weight[::-1][:8]],
        "rejected": [words[index] for index in by_weight[:8]],
    }
    return fitted_right(features_PW, pairs, seed=seed), telling


def model_right(
    pairs: Sequence[Pair], lm: VideoLM, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Array:
    """The answer that the model, shown no video, finds likelier per token is taken for the chosen one.

    `progress` is called with how many questions, mostly one a video, are answered of how many.
    """
    asked: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        asked[pair.video_id, pair.prompt].update({pair.chosen: 0.0, pair.rejected: 0.0})
    for done, ((_, prompt), answers) in enumerate(asked.items(), 1):
        answers.update(_mean_log_probs(lm, prompt, list(answers)))
        progress(done, len(asked))
    scores = [asked[pair.video_id, pair.prompt] for pair in pairs]
    rows = zip(scores, pairs, strict=True)
    return picks(np.array([score[pair.chosen] - score[pair.rejected] for score, pair in rows]))


def _mean_log_probs(lm: VideoLM, prompt: str, answers: Sequence[str]) -> dict[str, float]:
    """Log-probability per token of each answer, end of turn included, after the prompt without a video."""
    import torch

    from tempo.model.chat import Prefix, log_probs

    with torch.no_grad():
        found = log_probs(lm, Prefix(None, prompt), answers, reduction="mean")
    return {answer: float(logp) for answer, logp in zip(answers, found, strict=True)}


def word_features(pairs: Sequence[Pair]) -> tuple[list[str], Array]:
    """Words, and features [P, W]: log(1 + count) of each in the chosen less that in the rejected answer."""
    counts = [(_count_words(pair.chosen), _count_words(pair.rejected)) for pair in pairs]
    differs: Counter[str] = Counter()
    for chosen, rejected in counts:
        differs.update(word for word in {*chosen, *rejected} if chosen[word] != rejected[word])
    # Counter keeps the order of a set among equals: the word itself breaks ties.
    words = sorted(differs, key=lambda word: (-differs[word], word))[:MAX_WORDS]
    chosen_PW, rejected_PW = (
        np.array([[sides[side][word] for word in words] for sides in counts], dtype=np.float64)
        for side in (0, 1)
    )
    return words, np.log1p(chosen_PW) - np.log1p(rejected_PW)


def _count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def fitted_right(features_PF: Array, pairs: Sequence[Pair], *, seed: int) -> Array:
    """What a logistic classifier picks, fitted for each fold of videos on the other folds."""
    fold_P = video_folds([pair.video_id for pair in pairs], seed=seed)
    scores_P = np.zeros(len(pairs))
    for fold in range(NUM_FOLDS):
        asked_P = fold_P == fold
        scores_P[asked_P] = features_PF[asked_P] @ fit(features_PF[~asked_P])
    return picks(scores_P)


def video_folds(videos: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """A fold for each row, the same for all rows of a video; folds differ by one video at most."""
    drawn = sorted(set(videos), key=lambda video: derive_seed(seed, video, "fold"))
    fold = {video: number % NUM_FOLDS for number, video in enumerate(drawn)}
    return np.array([fold[video] for video in videos], dtype=np.int64)


def fit(features_PF: Array) -> Array:
    """Weights [F] of a logistic classifier without intercept to which every row is of class "chosen".

    Minimises the summed loss plus half the squared weights; Newton steps, halved until the loss falls.
    """
    weights_F = np.zeros(features_PF.shape[1])
    loss = _loss(features_PF, weights_F)
    for _ in range(MAX_STEPS):
        wrong_P = 0.5 - 0.5 * np.tanh(0.5 * features_PF @ weights_F)
        gradient_F = features_PF.T @ wrong_P - weights_F
        curvature_P = wrong_P * (1 - wrong_P)
        hessian_FF = features_PF.T @ (features_PF * curvature_P[:, None]) + np.eye(len(weights_F))
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        while (stepped := _loss(features_PF, weights_F + step_F)) > loss and np.abs(step_F).max() > TIE:
            step_F /= 2
        weights_F = weights_F + step_F
        if loss - stepped < TIE * max(1.0, loss):
            break
        loss = stepped
    return weights_F


def _loss(features_PF: Array, weights_F: Array) -> float:
    return float(np.logaddexp(0, -features_PF @ weights_F).sum() + 0.5 * weights_F @ weights_F)


def picks(scores_P: Array) -> Array:
    """1 for a score over 0, 0 for one under it, 0.5 for none."""
    return np.where(np.abs(scores_P) < TIE, 0.5, np.where(scores_P > 0, 1.0, 0.0))
