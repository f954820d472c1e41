"""The audit: how often text-only baselines, which never see the video, pick the chosen text of a pair.

If length, word choice or the language model alone gives the chosen text away, training on the pairs may teach
that instead of the order of time. A baseline scores the difference of the two texts, so chance is 50 %.
P: pairs, F: features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tempo.core.files import write_json
from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Frozen, Pair, file_of
from tempo.core.statistics import share_interval
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.importing import pair_of_row
from tempo.preference.pairs import log_length_ratio
from tempo.preference.verify import agreement_gain

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM

Array: TypeAlias = NDArray[np.float64]

#: Called with the number of prompts that the language model has scored, and their total.
Progress: TypeAlias = Callable[[int, int], None]

#: With fewer videos there is no verdict, and intervals are Wilson's with one sample per video.
MIN_VIDEOS = 20

#: A baseline that is right more often than this has found a shortcut.
SHORTCUT = 0.55

NUM_FOLDS = 5

#: The file with the scores of the single pairs in a run directory.
PAIR_SCORES = "audit_pairs.json"

#: The baselines: their names in the verdict, and the advice if one has found a shortcut.
BASELINES = {
    "length": ("Length", 'Set pairs.length = "fair", or use the kind "replace" instead of "drop".'),
    "words": (
        "The choice of words",
        "If length is not a shortcut, remove the kind that is solved most often from perturbations.kinds.",
    ),
    "model": ("The language model without the video", "Try another responses.temperature."),
}


class Accuracy(Frozen):
    """The share of pairs for which a baseline picks the chosen text (ties count half), with interval."""

    accuracy: float
    interval: tuple[float, float]
    num_pairs: int
    num_videos: int


class BaselineAccuracy(Accuracy):
    """The accuracy over all pairs, and by kind of perturbation and by level, easiest level first."""

    by_kind: dict[str, Accuracy]
    by_level: dict[str, Accuracy]


class AuditReport(Frozen):
    """The content of `audit.json`; `baselines` has `length`, `words` and `model`."""

    num_pairs: int
    num_audited: int
    num_videos: int
    baselines: dict[str, BaselineAccuracy]
    verdict: str
    #: How often the chosen text agrees better with the captions of the clips, if there are any.
    verified: BaselineAccuracy | None = None
    #: By id of the pair, for each baseline: positive if it picks the chosen text, and by how much.
    pair_scores: dict[str, dict[str, float]] = Field(default_factory=dict)


def audit(
    pairs: Iterable[Pair | Mapping[str, Any] | Sequence[str]],
    *,
    with_model: VideoLM | None = None,
    seed: int = 0,
    max_pairs: int = 2000,
    max_model_pairs: int = 500,
    progress: Progress = lambda done, total: None,
) -> AuditReport:
    """How well text-only baselines distinguish chosen from rejected texts, with a verdict in words.

    A pair is a `Pair`, a tuple (chosen, rejected), or a row in the format of TRL, ms-swift or LLaMA-Factory.
    Pairs of the same video, or with the same chosen text if they name no video, stay together in folds and in
    the bootstrap. About `max_pairs` pairs are audited, about `max_model_pairs` of them by `with_model`. The
    baselines `length` and `words` need at least 5 videos. Raises ValueError for a value that is not a pair.
    """
    all_pairs = [_as_pair(pair, number) for number, pair in enumerate(pairs, 1)]
    audited = _draw_videos(all_pairs, max_pairs, seed)
    num_pairs, num_videos = len(audited), len({_film(pair) for pair in audited})
    found = dict[str, tuple[Array, list[Pair]]]()
    if num_videos >= NUM_FOLDS:
        for name, features_PF in _features(audited).items():
            found[name] = _cross_validated(features_PF, audited, seed), audited
    if audited and with_model is not None and max_model_pairs:
        few = _draw_videos(audited, max_model_pairs, seed)
        found["model"] = _language_model(few, with_model, progress), few
    scores = {name: _summarize(*scored, seed) for name, scored in found.items()}
    pair_scores: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, (scores_P, scored) in found.items():
        for pair, score in zip(scored, scores_P.tolist(), strict=True):
            pair_scores[pair.id][name] = round(score, 4)
    return AuditReport(
        num_pairs=len(all_pairs),
        num_audited=num_pairs,
        num_videos=num_videos,
        baselines=scores,
        verdict=verdict(scores, num_pairs=num_pairs, num_videos=num_videos),
        pair_scores=dict(pair_scores),
    )


def audit_run(context: Context, *, progress: Progress) -> AuditReport:
    """Audits the pairs of a run as configured.

    Writes `audit.json`, and the scores of the single pairs to `audit_pairs.json`.
    """
    config, store = context.config, RunStore(context.directory)
    pairs, captions = store.read("pairs", Pair), store.rows("captions", Captions)
    seed, model = config.run.seed, None
    if pairs and config.audit.max_model_pairs:
        from tempo.model.loading import load_model

        model = load_model(**config.model.model_dump())
    limits = config.audit.model_dump()
    report = audit(pairs, with_model=model, seed=seed, progress=progress, **limits)
    # A mirrored pair is about the perturbed video.
    known = [pair for pair in pairs if pair.video_id in captions and not pair.frames]
    if known := _draw_videos(known, config.audit.max_pairs, seed):
        texts = ((pair, captions[pair.video_id].captions) for pair in known)
        gains = [agreement_gain(pair.chosen, pair.rejected, own) for pair, own in texts]
        verified = _summarize(np.array(gains), known, seed)
        text = f"{report.verdict} The chosen text agrees better with the captions of the clips in "
        text += f"{100 * verified.accuracy:.0f} % of the pairs (pairs.verify keeps only these)."
        report = report.model_copy(update={"verified": verified, "verdict": text})
    write_json(context.directory / PAIR_SCORES, report.pair_scores)
    write_json(context.directory / "audit.json", report.model_dump(mode="json", exclude={"pair_scores"}))
    return report


def _as_pair(pair: Pair | Mapping[str, Any] | Sequence[str], number: int) -> Pair:
    if isinstance(pair, Pair):
        return pair
    try:
        row = pair if isinstance(pair, Mapping) else zip(("chosen", "rejected"), pair, strict=True)
        return pair_of_row(dict(row))
    except ValueError as error:
        raise ValueError(f"pair {number}: {error}") from None


def _film(pair: Pair) -> str:
    """The video of a pair, or the film of which it is a segment: segments of a film are not independent."""
    return file_of(pair.video_id) if pair.span else pair.video_id


def _draw_videos(pairs: Sequence[Pair], max_pairs: int, seed: int) -> list[Pair]:
    """All pairs of as many random videos as `max_pairs` allows, but of at least MIN_VIDEOS; sorted by id."""
    by_video: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_video[_film(pair)].append(pair)
    drawn: list[Pair] = []
    for number, video in enumerate(sorted(by_video, key=lambda name: derive_seed(seed, name, "audit"))):
        if number >= MIN_VIDEOS and len(drawn) + len(by_video[video]) > max_pairs:
            break
        drawn += by_video[video]
    return sorted(drawn, key=lambda pair: pair.id)


def _features(pairs: Sequence[Pair]) -> dict[str, Array]:
    """The features [P, F] of the fitted baselines, as differences of chosen and rejected text."""
    from sklearn.feature_extraction.text import CountVectorizer

    # Which text is longer, and by how much.
    ratio_P = np.array([log_length_ratio(pair) for pair in pairs])
    scale = float(np.sqrt(np.mean(ratio_P**2))) or 1.0
    # Counts of the 500 most frequent words; the limit keeps time and memory small.
    vectorizer = CountVectorizer(token_pattern=r"\w+", max_features=500)
    texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    logs = np.log1p(vectorizer.fit_transform(texts).toarray())
    chosen_PF, rejected_PF = np.split(logs, 2)
    return {"length": np.stack([np.sign(ratio_P), ratio_P / scale], axis=1), "words": chosen_PF - rejected_PF}


def _language_model(pairs: Sequence[Pair], lm: VideoLM, progress: Progress) -> Array:
    """Log-probability per token (end of turn included), chosen minus rejected text, without the video."""
    import torch

    from tempo.model.chat import Prefix, log_probs

    # Pairs of one video share their prompt and, usually, their chosen text.
    texts: defaultdict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        texts[pair.video_id, pair.prompt, pair.system].update({pair.chosen: 0.0, pair.rejected: 0.0})
    for done, ((_, prompt, system), logp) in enumerate(texts.items(), 1):
        with torch.no_grad():
            means = log_probs(lm, Prefix(None, prompt, system=system), list(logp), reduction="mean")
        logp.update(zip(list(logp), map(float, means), strict=True))
        progress(done, len(texts))
    found = [texts[pair.video_id, pair.prompt, pair.system] for pair in pairs]
    return np.array([logp[p.chosen] - logp[p.rejected] for logp, p in zip(found, pairs, strict=True)])


def _cross_validated(features_PF: Array, pairs: Sequence[Pair], seed: int) -> Array:
    """The scores [P] from logistic regression: each fold of videos is scored by a fit on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    scores: Array = cross_val_predict(
        # Each pair occurs twice, once with its texts exchanged, so C = 0.5 equals C = 1 for single pairs.
        LogisticRegression(C=0.5, fit_intercept=False, max_iter=1000),
        np.concatenate([features_PF, -features_PF]),
        np.repeat([1, 0], len(pairs)),
        groups=[_film(pair) for pair in pairs] * 2,
        cv=GroupKFold(NUM_FOLDS, shuffle=True, random_state=derive_seed(seed, "fold") % 2**32),
        method="decision_function",
    )
    return scores[: len(pairs)]


def _summarize(scores_P: Array, pairs: Sequence[Pair], seed: int) -> BaselineAccuracy:
    # A positive score picks the chosen text; 0, up to rounding, is a tie.
    right_P = np.where(np.abs(scores_P) < 1e-9, 0.5, np.where(scores_P > 0, 1.0, 0.0))
    bootstrap_seed = derive_seed(seed, "audit", "bootstrap")

    def accuracy(part_P: NDArray[np.bool_]) -> Accuracy:
        videos = [_film(pair) for pair, is_part in zip(pairs, part_P, strict=True) if is_part]
        low, high = share_interval(right_P[part_P], videos, seed=bootstrap_seed, min_clusters=MIN_VIDEOS)
        return Accuracy(
            accuracy=round(float(right_P[part_P].mean()), 4),
            interval=(round(low, 4), round(high, 4)),
            num_pairs=len(videos),
            num_videos=len(set(videos)),
        )

    kind_P, level_P = np.array([pair.kind for pair in pairs]), np.array([pair.level for pair in pairs])
    return BaselineAccuracy(
        **dict(accuracy(np.ones(len(pairs), bool))),
        by_kind={str(kind): accuracy(kind_P == kind) for kind in np.unique(kind_P)},
        by_level={str(level): accuracy(level_P == level) for level in np.unique(level_P)[::-1]},
    )


def verdict(scores: Mapping[str, BaselineAccuracy], *, num_pairs: int, num_videos: int) -> str:
    """One sentence for each baseline, with advice if it has found a shortcut."""
    if num_videos < MIN_VIDEOS:
        size = f"{num_pairs} pairs of {num_videos} videos"
        return f"No verdict: {size} are too few. At least {MIN_VIDEOS} videos are needed."
    return " ".join(_finding(name, score) for name, score in scores.items())


def _finding(name: str, score: BaselineAccuracy) -> str:
    (subject, advice), (strength, low) = BASELINES[name], _strength(name, score)
    finding = f"{subject} alone solves {100 * strength:.0f} % of the pairs"
    parts = {f"{kind} pairs": _strength(name, part) for kind, part in score.by_kind.items()}
    parts |= {f"level {level}": _strength(name, part) for level, part in score.by_level.items()}
    worst, (share, part_low) = max(parts.items(), key=lambda part: part[1][1], default=("", (0.0, 0.0)))
    if part_low > SHORTCUT:
        return f"{finding}, {100 * share:.0f} % of {worst}: a shortcut. {advice}"
    if strength > SHORTCUT:
        return f"{finding}: a shortcut. {advice}" if low > 0.5 else f"{finding}: no clear shortcut."
    return f"{finding}: no shortcut."


def _strength(name: str, score: Accuracy) -> tuple[float, float]:
    """The share of pairs that a baseline gets right, and the lower end of its 95 % interval."""
    low, high = score.interval if score.num_videos >= MIN_VIDEOS else (0.0, 1.0)
    # The model is just as informative if it is always wrong; the other baselines are fitted.
    is_wrong = name == "model" and score.accuracy < 0.5
    return (1 - score.accuracy, 1 - high) if is_wrong else (score.accuracy, low)
