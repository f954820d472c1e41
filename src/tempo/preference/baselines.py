"""Text-only baselines: each picks one text of every pair and never sees the video.

A baseline compares the two texts as a difference, so their order cannot matter and chance is 50 %. Its result
is [P]: 1 where it picks the chosen text, 0 where it picks the rejected one, 0.5 for a tie. A fitted baseline
has not seen the videos that it is evaluated on.

    P: pairs   F: features
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.core.hashing import derive_seed
from tempo.core.records import Pair
from tempo.preference.pairs import log_length_ratio

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM

Array: TypeAlias = NDArray[np.float64]

#: Called with how many questions to the language model are answered, and of how many.
Progress: TypeAlias = Callable[[int, int], None]

#: A fitted baseline needs as many videos.
NUM_FOLDS = 5

#: The classifier counts the most frequent words. Bounds its time and memory.
MAX_WORDS = 500


def longer_text(pairs: Sequence[Pair]) -> Array:
    """The longer text, in words."""
    return _picks(np.array([log_length_ratio(pair) for pair in pairs]))


def length(pairs: Sequence[Pair], *, seed: int) -> Array:
    """Fitted on which text is longer and by how much, so it may come to prefer either."""
    ratio_P = np.array([log_length_ratio(pair) for pair in pairs])
    size = float(np.sqrt(np.mean(ratio_P**2))) or 1.0
    return _cross_validated(np.stack([np.sign(ratio_P), ratio_P / size], axis=1), pairs, seed)


def words(pairs: Sequence[Pair], *, seed: int) -> tuple[Array, dict[str, tuple[str, ...]]]:
    """Fitted on log(1 + count) of each word; also the words that speak most for either text."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=r"\w+", max_features=MAX_WORDS)
    texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    counts = np.log1p(vectorizer.fit_transform(texts).toarray())
    features_PF = counts[: len(pairs)] - counts[len(pairs) :]
    names, weights_F = (
        vectorizer.get_feature_names_out(),
        _classifier().fit(*_both_orders(features_PF)).coef_[0],
    )
    order = np.argsort(weights_F, kind="stable")
    telling = {
        "chosen": tuple(str(names[i]) for i in order[::-1][:8] if weights_F[i] > 0),
        "rejected": tuple(str(names[i]) for i in order[:8] if weights_F[i] < 0),
    }
    return _cross_validated(features_PF, pairs, seed), telling


def language_model(pairs: Sequence[Pair], lm: VideoLM, progress: Progress) -> Array:
    """The text that the model, without the video, finds likelier per token, end of turn included."""
    import torch

    from tempo.model.chat import Prefix, log_probs

    asked: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        asked[pair.video_id, pair.prompt].update({pair.chosen: 0.0, pair.rejected: 0.0})
    for done, ((_, prompt), answers) in enumerate(asked.items(), 1):
        with torch.no_grad():
            found = log_probs(lm, Prefix(None, prompt), list(answers), reduction="mean")
        answers.update({text: float(logp) for text, logp in zip(answers, found, strict=True)})
        progress(done, len(asked))
    scores = [(asked[pair.video_id, pair.prompt], pair) for pair in pairs]
    return _picks(np.array([score[pair.chosen] - score[pair.rejected] for score, pair in scores]))


def _cross_validated(features_PF: Array, pairs: Sequence[Pair], seed: int) -> Array:
    """What a logistic classifier picks, for each fold of videos fitted on the other folds."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(NUM_FOLDS, shuffle=True, random_state=derive_seed(seed, "fold") % 2**32)
    features, is_chosen = _both_orders(features_PF)
    videos = [pair.video_id for pair in pairs] * 2
    method = "decision_function"
    scores = cross_val_predict(_classifier(), features, is_chosen, groups=videos, cv=folds, method=method)
    return _picks(scores[: len(pairs)])


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression

    # Each pair is there twice, so C = 0.5 gives the summed loss of the pairs plus half the squared weights.
    return LogisticRegression(C=0.5, fit_intercept=False, max_iter=1000)


def _both_orders(features_PF: Array) -> tuple[Array, NDArray[np.int64]]:
    """Features and classes of the pairs, and of the pairs with their texts exchanged."""
    return np.concatenate([features_PF, -features_PF]), np.repeat([1, 0], len(features_PF))


def _picks(scores_P: Array) -> Array:
    """1 for a positive score (the chosen text is picked), 0 for a negative one, 0.5 for 0, up to rounding."""
    return np.where(np.abs(scores_P) < 1e-9, 0.5, np.where(scores_P > 0, 1.0, 0.0))
