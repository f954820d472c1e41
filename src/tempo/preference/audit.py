"""The audit: how well text-only baselines, which never see the video, tell the two texts of each pair apart.

A model that is trained on pairs which length, words or the language model alone can tell apart may learn that
instead of the order of time. A baseline compares the two texts as a difference, so their order cannot matter
and chance is 50 %.

    P: pairs   F: features
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.config import load_config
from tempo.core.files import write_json
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Pair
from tempo.core.statistics import share_interval
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.importing import pair_of_row
from tempo.preference.pairs import log_length_ratio

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM

Array: TypeAlias = NDArray[np.float64]

#: Called with the number of prompts that the language model has judged texts of, and their total.
Progress: TypeAlias = Callable[[int, int], None]

#: With fewer videos there is no verdict, and intervals are Wilson's, for one sample per video.
MIN_VIDEOS = 20

#: A baseline that is right more often than this has found a shortcut.
SHORTCUT = 0.55

#: Baselines that are fitted, in cross-validation over NUM_FOLDS groups of videos. They learn which text to
#: prefer, so below 50 % they have found nothing.
FITTED = ("length", "words")
NUM_FOLDS = 5

#: The baseline `words` counts the most frequent words. Bounds its time and memory.
MAX_WORDS = 500

#: The subjects of the verdict: their baselines, of which the strongest counts, and the advice.
SUBJECTS = {
    "Length": (
        ("longer_text", "length"),
        'Set pairs.length = "fair" (fewer pairs, hardly a drop pair), or leave such kinds out of the phases.',
    ),
    "The choice of words": (
        ("words",),
        "If length is no shortcut, the model describes perturbed videos in other words.",
    ),
    "The language model without the video": (("model",), "Try another responses.temperature."),
}


class Accuracy(Frozen):
    """The share of pairs in which a baseline picks the chosen text (half for a tie), with 95 % interval."""

    accuracy: float
    interval: tuple[float, float]
    num_pairs: int
    num_videos: int


class BaselineAccuracy(Accuracy):
    """The accuracy over all pairs, and by kind of perturbation and by level, easiest level first."""

    by_kind: dict[str, Accuracy]
    by_level: dict[str, Accuracy]


class AuditReport(Frozen):
    """The result of an audit, and the content of `audit.json`.

    `baselines` has those of `longer_text`, `length`, `words` and `model` that could be evaluated.
    """

    num_pairs: int
    num_audited: int
    num_videos: int
    baselines: dict[str, BaselineAccuracy]
    verdict: str


def audit(
    pairs: Iterable[Pair | Mapping[str, Any] | Sequence[str]],
    *,
    with_model: VideoLM | None = None,
    seed: int = 0,
    max_pairs: int = 2000,
    max_model_pairs: int = 500,
    progress: Progress = lambda done, total: None,
) -> AuditReport:
    """How well text-only baselines tell chosen from rejected texts, with a verdict in words.

    A pair is a `Pair`, a tuple (chosen, rejected), or a row in the format of TRL, ms-swift or LLaMA-Factory;
    two lists of texts are `zip(chosen, rejected)`. Pairs of one video stay together in folds and in the
    bootstrap; without a video, those of one chosen text do. About `max_pairs` are audited, and
    `max_model_pairs` by `with_model`. Without a model there is no baseline `model`, and with fewer than 5
    videos no fitted one. Raises ValueError for a value that is not a pair.
    """
    all_pairs = [_as_pair(pair, number) for number, pair in enumerate(pairs, 1)]
    audited = _draw_videos(all_pairs, max_pairs, seed)
    num_videos = len({pair.video_id for pair in audited})
    scores = {}
    if audited:
        longer_P = _picks(np.array([log_length_ratio(pair) for pair in audited]))
        scores["longer_text"] = _summarize(longer_P, audited, seed)
    if num_videos >= NUM_FOLDS:
        scores["length"] = _summarize(_length(audited, seed), audited, seed)
        scores["words"] = _summarize(_words(audited, seed), audited, seed)
    if audited and with_model is not None and max_model_pairs:
        few = _draw_videos(audited, max_model_pairs, seed)
        scores["model"] = _summarize(_language_model(few, with_model, progress), few, seed)
    return AuditReport(
        num_pairs=len(all_pairs),
        num_audited=len(audited),
        num_videos=num_videos,
        baselines=scores,
        verdict=verdict(scores, num_pairs=len(audited), num_videos=num_videos),
    )


def audit_run(
    context: Context, *, with_model: bool = True, progress: Progress = lambda done, total: None
) -> AuditReport:
    """Audits the pairs of a run by its configuration, with or without its model. Writes `audit.json`."""
    config, pairs = context.config, RunStore(context.directory).read("pairs", Pair)
    model = None
    if with_model and pairs and config.audit.max_model_pairs:
        from tempo.model.loading import load_model

        model = load_model(**config.model.model_dump())
    settings = config.audit.model_dump()
    report = audit(pairs, with_model=model, seed=config.run.seed, progress=progress, **settings)
    write_json(context.directory / "audit.json", report.model_dump(mode="json"))
    return report


def audit_directory(
    directory: Path, *, with_model: bool, progress: Progress = lambda done, total: None
) -> AuditReport:
    """As `audit_run`, outside of a run's stages. Raises ValueError for a directory without pairs or in use.

    Afterwards the stage `report` counts as not done, and without the model the stage `audit`, too.
    """
    store = RunStore(directory)
    if not store.path("pairs").exists():
        command = f"tempo run CONFIG --out {directory} --until pairs"
        raise ValueError(f"{directory} has no pairs.jsonl. `{command}` makes it")
    with store.lock():
        context = Context(load_config(directory / "config.toml"), directory)
        report = audit_run(context, with_model=with_model, progress=progress)
        for stage in ("report",) if with_model else ("report", "audit"):
            store.forget(stage)
    return report


def _as_pair(pair: Pair | Mapping[str, Any] | Sequence[str], number: int) -> Pair:
    if isinstance(pair, Pair):
        return pair
    try:
        columns = ("chosen", "rejected")
        return pair_of_row(dict(pair if isinstance(pair, Mapping) else zip(columns, pair, strict=True)))
    except ValueError as error:
        raise ValueError(f"pair {number}: {error}") from None


def _draw_videos(pairs: Sequence[Pair], max_pairs: int, seed: int) -> list[Pair]:
    """All pairs of as many random videos as `max_pairs` allows, at least `MIN_VIDEOS`; sorted by id."""
    by_video: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_video[pair.video_id].append(pair)
    drawn: list[Pair] = []
    order = sorted(by_video, key=lambda video: derive_seed(seed, video, "audit"))
    for number, video in enumerate(order):
        if number >= MIN_VIDEOS and len(drawn) + len(by_video[video]) > max_pairs:
            break
        drawn += by_video[video]
    return sorted(drawn, key=lambda pair: pair.id)


def _length(pairs: Sequence[Pair], seed: int) -> Array:
    """Fitted on which text is longer and by how much, so it may come to prefer either."""
    ratio_P = np.array([log_length_ratio(pair) for pair in pairs])
    size = float(np.sqrt(np.mean(ratio_P**2))) or 1.0
    return _cross_validated(np.stack([np.sign(ratio_P), ratio_P / size], axis=1), pairs, seed)


def _words(pairs: Sequence[Pair], seed: int) -> Array:
    """Fitted on log(1 + count) of each word."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=r"\w+", max_features=MAX_WORDS)
    texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    counts = np.log1p(vectorizer.fit_transform(texts).toarray())
    return _cross_validated(counts[: len(pairs)] - counts[len(pairs) :], pairs, seed)


def _language_model(pairs: Sequence[Pair], lm: VideoLM, progress: Progress) -> Array:
    """The text that the model, without the video, finds likelier per token, end of turn included."""
    import torch

    from tempo.model.chat import Prefix, log_probs

    # Pairs of one video share their prompt, and mostly their chosen text.
    texts: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        texts[pair.video_id, pair.prompt].update({pair.chosen: 0.0, pair.rejected: 0.0})
    for done, ((_, prompt), scores) in enumerate(texts.items(), 1):
        with torch.no_grad():
            logps = log_probs(lm, Prefix(None, prompt), list(scores), reduction="mean")
        scores.update(zip(list(scores), map(float, logps), strict=True))
        progress(done, len(texts))
    found = [texts[pair.video_id, pair.prompt] for pair in pairs]
    return _picks(np.array([s[p.chosen] - s[p.rejected] for s, p in zip(found, pairs, strict=True)]))


def _cross_validated(features_PF: Array, pairs: Sequence[Pair], seed: int) -> Array:
    """What a logistic classifier picks in each fold of videos, fitted on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    scores = cross_val_predict(
        # Each pair is there twice, so C = 0.5 gives the sum of their losses plus half the squared weights.
        LogisticRegression(C=0.5, fit_intercept=False, max_iter=1000),
        # Each pair, and each pair with its texts exchanged.
        np.concatenate([features_PF, -features_PF]),
        np.repeat([1, 0], len(pairs)),
        groups=[pair.video_id for pair in pairs] * 2,
        cv=GroupKFold(NUM_FOLDS, shuffle=True, random_state=derive_seed(seed, "fold") % 2**32),
        method="decision_function",
    )
    return _picks(scores[: len(pairs)])


def _picks(scores_P: Array) -> Array:
    """1 for a positive score (the chosen text is picked), 0 for a negative one, 0.5 for 0, up to rounding."""
    return np.where(np.abs(scores_P) < 1e-9, 0.5, np.where(scores_P > 0, 1.0, 0.0))


def _summarize(right_P: Array, pairs: Sequence[Pair], seed: int) -> BaselineAccuracy:
    bootstrap_seed = derive_seed(seed, "audit", "bootstrap")

    def accuracy(part_P: NDArray[np.bool_]) -> Accuracy:
        videos = [pair.video_id for pair, is_part in zip(pairs, part_P, strict=True) if is_part]
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
    """A sentence for each subject that may give the pairs away, with advice if it does."""
    if num_videos < MIN_VIDEOS:
        return f"Too few for a verdict: {num_pairs} pairs of {num_videos} videos; {MIN_VIDEOS} are needed."
    sentences = []
    for subject, (names, advice) in SUBJECTS.items():
        if found := [name for name in names if name in scores]:
            name = max(found, key=lambda name: _strength(name, scores[name])[0])
            sentences.append(_sentence(subject, name, scores[name], advice))
    return " ".join(sentences)


def _sentence(subject: str, name: str, score: BaselineAccuracy, advice: str) -> str:
    strength, least = _strength(name, score)
    finding = f"{subject} alone tells {100 * strength:.0f} % of the pairs apart"
    parts = {f"{kind} pairs": _strength(name, part) for kind, part in score.by_kind.items()}
    parts |= {f"level {level}": _strength(name, part) for level, part in score.by_level.items()}
    shortcuts = {title: share for title, (share, at_least) in parts.items() if at_least > SHORTCUT}
    if worst := max(shortcuts, key=lambda title: shortcuts[title], default=""):
        finding += f", {100 * shortcuts[worst]:.0f} % of {worst}"
    if worst or (strength > SHORTCUT and least > 0.5):
        return f"{finding}: a shortcut. {advice}"
    return f"{finding}: no {'certain ' if strength > SHORTCUT else ''}shortcut."


def _strength(name: str, score: Accuracy) -> tuple[float, float]:
    """The share of pairs that a baseline tells apart, and the least share within the 95 % interval.

    A baseline that is not fitted tells pairs apart by being wrong, too. For few videos the least share is 0.
    """
    low, high = score.interval if score.num_videos >= MIN_VIDEOS else (0.0, 1.0)
    if name in FITTED:
        return score.accuracy, low
    return max(score.accuracy, 1 - score.accuracy), max(low, 1 - high)
