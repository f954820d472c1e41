"""The audit: how well the two texts of each pair can be told apart without the video.

A model that is trained on pairs which length, words or the language model alone can tell apart may learn that
instead of the order of time.

    P: pairs
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempo.config import AuditConfig, ModelConfig
from tempo.core.files import write_json
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Pair
from tempo.core.statistics import share_interval
from tempo.core.store import RunStore, read_config
from tempo.preference import baselines
from tempo.preference.baselines import Array, Progress
from tempo.preference.importing import pair_of_row

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM

#: With fewer videos there is no verdict, and intervals are Wilson's, for one sample per video.
MIN_VIDEOS = 20

#: A baseline that is right more often than this has found a shortcut.
SHORTCUT = 0.55

#: These have chosen a direction: below 50 % they have found nothing, and other baselines have.
FITTED = ("length", "words")

#: The subjects of the verdict: their baselines, of which the strongest counts, and the advice.
SUBJECTS = {
    "Length": (
        ("longer_text", "length"),
        'Set pairs.length = "fair" (fewer pairs, hardly a drop pair), or leave such kinds out of the phases.',
    ),
    "The choice of words": (
        ("words",),
        "audit.json lists them as telling_words. Words that count stand for length; others mean that the "
        "model describes perturbed videos in other words.",
    ),
    "The language model without the video": (
        ("model",),
        "One side reads more fluently than the other: compare them in the report, and try another "
        "responses.temperature.",
    ),
}


class Accuracy(Frozen):
    """The share of pairs in which a baseline picks the chosen text, a tie being half, with its interval."""

    accuracy: float
    interval: tuple[float, float]
    num_pairs: int
    num_videos: int


class BaselineAccuracy(Accuracy):
    """Also by kind of perturbation and by level, easiest level first."""

    by_kind: dict[str, Accuracy]
    by_level: dict[str, Accuracy]


class AuditReport(Frozen):
    """The result of an audit, and the content of `audit.json`.

    `baselines` are `longer_text`, `length`, `words` and `model`, as far as they could be evaluated.
    `telling_words` speak most for the text that they are listed under, `chosen` or `rejected`.
    """

    num_pairs: int
    num_audited: int
    num_videos: int
    baselines: dict[str, BaselineAccuracy]
    telling_words: dict[str, tuple[str, ...]]
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
    videos no fitted one. Raises ValueError for what is not a pair.
    """
    all_pairs = [_as_pair(pair, number) for number, pair in enumerate(pairs, 1)]
    audited = choose_videos(all_pairs, max_pairs, seed=seed)
    num_videos = len({pair.video_id for pair in audited})
    right: dict[str, Array] = {}
    telling: dict[str, tuple[str, ...]] = {}
    if audited:
        right["longer_text"] = baselines.longer_text(audited)
    if num_videos >= baselines.NUM_FOLDS:
        right["length"] = baselines.length(audited, seed=seed)
        right["words"], telling = baselines.words(audited, seed=seed)
    scores = {name: _summarise(right_P, audited, seed) for name, right_P in right.items()}
    if audited and with_model is not None and max_model_pairs:
        few = choose_videos(audited, max_model_pairs, seed=seed)
        scores["model"] = _summarise(baselines.language_model(few, with_model, progress), few, seed)
    return AuditReport(
        num_pairs=len(all_pairs),
        num_audited=len(audited),
        num_videos=num_videos,
        baselines=scores,
        telling_words=telling,
        verdict=verdict(scores, num_pairs=len(audited), num_videos=num_videos),
    )


def audit_run(
    directory: Path, *, with_model: bool = True, progress: Progress = lambda done, total: None
) -> AuditReport:
    """Audits the pairs of a run with the seed, model and [audit] section of its config.toml.

    Writes `audit.json`. Raises ValueError if there are no pairs, or no model.
    """
    pairs, config = read_pairs(directory), read_config(directory)
    if with_model and "model" not in config:
        raise ValueError(f"{directory}/config.toml does not name a model. Add --no-model")
    # Only these sections: a run of another version of tempo may have keys that this one does not know.
    settings = AuditConfig.model_validate(config.get("audit", {}))
    seed = int(config.get("run", {}).get("seed", 0))
    model = None
    if with_model and pairs and settings.max_model_pairs:
        from tempo.model.loading import load_video_lm

        model = load_video_lm(ModelConfig.model_validate(config["model"]))
    report = audit(pairs, with_model=model, seed=seed, progress=progress, **settings.model_dump())
    write_json(directory / "audit.json", report.model_dump(mode="json"))
    return report


def audit_directory(
    directory: Path, *, with_model: bool, progress: Progress = lambda done, total: None
) -> AuditReport:
    """As `audit_run`, outside of a run's stages; raises ValueError if a run holds the directory.

    Afterwards the stage `report` counts as not done, and without the model the stage `audit`, too.
    """
    # First, because the lock would create the directory.
    read_pairs(directory)
    with RunStore(directory).lock():
        report = audit_run(directory, with_model=with_model, progress=progress)
        for stage in ("report",) if with_model else ("report", "audit"):
            RunStore(directory).forget(stage)
    return report


def read_pairs(directory: Path) -> list[Pair]:
    """The pairs of a run; raises ValueError if it has no file of pairs, or for a line that is not a pair."""
    if not (directory / "pairs.jsonl").exists():
        command = f"tempo run CONFIG --out {directory} --until pairs"
        raise ValueError(f"{directory} has no pairs.jsonl. `{command}` makes it")
    return RunStore(directory).read("pairs", Pair)


def _as_pair(pair: Pair | Mapping[str, Any] | Sequence[str], number: int) -> Pair:
    if isinstance(pair, Pair):
        return pair
    try:
        row = pair if isinstance(pair, Mapping) else dict(zip(("chosen", "rejected"), pair, strict=True))
        return pair_of_row(dict(row))
    except ValueError as error:
        raise ValueError(f"pair {number}: {error}") from None


def choose_videos(pairs: Sequence[Pair], max_pairs: int, *, seed: int) -> list[Pair]:
    """All pairs of as many random videos as `max_pairs` allows, at least `MIN_VIDEOS`; sorted by id."""
    by_video: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_video[pair.video_id].append(pair)
    chosen: list[Pair] = []
    drawn = sorted(by_video, key=lambda video: derive_seed(seed, video, "audit"))
    for number, video in enumerate(drawn):
        if number >= MIN_VIDEOS and len(chosen) + len(by_video[video]) > max_pairs:
            break
        chosen += by_video[video]
    return sorted(chosen, key=lambda pair: pair.id)


def _summarise(right_P: Array, pairs: Sequence[Pair], seed: int) -> BaselineAccuracy:
    bootstrap_seed = derive_seed(seed, "audit", "bootstrap")

    def score(part_P: NDArray[np.bool_]) -> dict[str, Any]:
        videos = [pair.video_id for pair, is_part in zip(pairs, part_P, strict=True) if is_part]
        interval = share_interval(right_P[part_P], videos, seed=bootstrap_seed, min_clusters=MIN_VIDEOS)
        return {
            "accuracy": round(float(right_P[part_P].mean()), 4),
            "interval": [round(bound, 4) for bound in interval],
            "num_pairs": len(videos),
            "num_videos": len(set(videos)),
        }

    kind_P, level_P = np.array([pair.kind for pair in pairs]), np.array([pair.level for pair in pairs])
    return BaselineAccuracy(
        **score(np.ones(len(pairs), bool)),
        by_kind={str(kind): Accuracy(**score(kind_P == kind)) for kind in np.unique(kind_P)},
        by_level={str(level): Accuracy(**score(level_P == level)) for level in np.unique(level_P)[::-1]},
    )


def verdict(scores: Mapping[str, BaselineAccuracy], *, num_pairs: int, num_videos: int) -> str:
    """A sentence for each subject that may give the pairs away, with advice if it does."""
    if num_videos < MIN_VIDEOS:
        return f"Too few for a verdict: {num_pairs} pairs of {num_videos} videos; {MIN_VIDEOS} are needed."
    sentences = []
    for subject, (names, advice) in SUBJECTS.items():
        if found := [name for name in names if name in scores]:
            name = max(found, key=lambda name: _strength(name, scores[name]))
            sentences.append(_sentence(subject, name, scores[name], advice))
    return " ".join(sentences)


def _sentence(subject: str, name: str, score: BaselineAccuracy, advice: str) -> str:
    strength = _strength(name, score)
    finding = f"{subject} alone tells {100 * strength:.0f} % of the pairs apart"
    worst = _worst_part(name, score)
    if strength > SHORTCUT and _sure_strength(name, score) > 0.5:
        way = " (by preferring the rejected text)" if score.accuracy < 0.5 else ""
        return f"{finding}{way}{worst and ', ' + worst}: a shortcut. {advice}"
    if worst:
        return f"{finding}, but {worst}: a shortcut there. {advice}"
    return f"{finding}: no {'certain ' if strength > SHORTCUT else ''}shortcut."


def _worst_part(name: str, score: BaselineAccuracy) -> str:
    """The kind or level that a baseline tells apart best, if that is certainly a shortcut."""
    parts = {f"{kind} pairs": part for kind, part in score.by_kind.items()}
    parts |= {f"level {level}": part for level, part in score.by_level.items()}
    sure = {title: _strength(name, p) for title, p in parts.items() if _sure_strength(name, p) > SHORTCUT}
    worst = max(sure, key=lambda title: sure[title], default="")
    return f"{100 * sure[worst]:.0f} % of {worst}" if worst else ""


def _strength(name: str, score: Accuracy) -> float:
    """The share of pairs that a baseline tells apart, possibly by being wrong more often than chance."""
    return score.accuracy if name in FITTED else max(score.accuracy, 1 - score.accuracy)


def _sure_strength(name: str, score: Accuracy) -> float:
    """The smallest strength within the 95 % interval; 0 for too few videos."""
    low, high = score.interval
    strength = low if name in FITTED else max(low, 1 - high)
    return strength if score.num_videos >= MIN_VIDEOS else 0.0
