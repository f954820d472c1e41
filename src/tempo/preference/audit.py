"""The audit: how well the pairs can be told apart without the video, and what to do about it.

A pair that length, words or the language model alone can tell apart may be won without watching; a model
trained on it learns that instead of the order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tempo.config import AuditConfig, ModelConfig
from tempo.core.records import Pair
from tempo.core.seeds import derive_seed
from tempo.core.statistics import cluster_interval, wilson_interval
from tempo.core.store import RunStore, read_config, write_json
from tempo.preference import judges
from tempo.preference.verdict import MIN_VIDEOS, verdict

#: Told how many questions of the language model are answered, of how many.
Progress: TypeAlias = Callable[[int, int], None]


def read_pairs(directory: Path) -> list[Pair]:
    """The pairs in a directory; raises ValueError where it has none, or a line that is no pair."""
    path = directory / "pairs.jsonl"
    if not path.exists():
        raise ValueError(
            f"{directory} has no pairs.jsonl; `tempo run CONFIG --out {directory} --until pairs` makes it"
        )
    return RunStore(directory).read("pairs", Pair)


def audit_directory(
    directory: Path, *, with_model: bool, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Audits the pairs of a directory as its config.toml says; writes `audit.json` and returns its content.

    A report that was written counts as not done any more, for it shows the audit before; so does the stage
    itself where the model was not asked. A directory with nothing but pairs has no model to ask. Raises
    ValueError where there are no pairs, and while a run is at work there: it audits its pairs itself, and
    may be about to replace them.
    """
    # Now for what may be wrong with it: the lock would make the directory.
    read_pairs(directory)
    # Only what the audit needs: a run of another version may have keys that this one does not know.
    plain = read_config(directory)
    if with_model and "model" not in plain:
        raise ValueError(f"{directory}/config.toml names no model to ask; add --no-model")
    settings = AuditConfig.model_validate(plain.get("audit", {}))
    model = ModelConfig.model_validate(plain["model"]) if with_model else None
    seed = int(plain.get("run", {}).get("seed", 0))
    with RunStore(directory).lock():
        audit = audit_pairs(read_pairs(directory), settings, seed=seed, model=model, progress=progress)
        for stage in ("report",) if with_model else ("report", "audit"):
            RunStore(directory).forget(stage)
        write_json(directory / "audit.json", audit)
    return audit


def audit_pairs(
    pairs: Sequence[Pair],
    settings: AuditConfig,
    *,
    seed: int,
    model: ModelConfig | None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Accuracy and 95 % interval of every judge, overall, by kind and by level, and the verdict in words.

    Without `model` the language model is not asked; judges that are fitted need a video for each fold.
    """
    asked = choose_videos(pairs, settings.max_pairs, seed=seed)
    num_videos = len({pair.video_id for pair in asked})
    scores: dict[str, Any] = {}
    telling: dict[str, list[str]] = {}
    if asked:
        scores["longer"] = summarise(judges.longer_right(asked), asked, seed=seed)
    if num_videos >= judges.NUM_FOLDS:
        words_P, telling = judges.words_right(asked, seed=seed)
        scores["length"] = summarise(judges.length_right(asked, seed=seed), asked, seed=seed)
        scores["words"] = summarise(words_P, asked, seed=seed)
    if asked and model is not None and settings.max_model_pairs:
        few = choose_videos(asked, settings.max_model_pairs, seed=seed)
        scores["model"] = summarise(_ask_model(few, model, progress), few, seed=seed)
    return {
        "num_pairs": len(pairs),
        "num_audited": len(asked),
        "num_videos": num_videos,
        "judges": scores,
        "telling_words": telling,
        "verdict": verdict(scores, num_pairs=len(asked), num_videos=num_videos),
    }


def _ask_model(pairs: Sequence[Pair], model: ModelConfig, progress: Progress) -> judges.Array:
    from tempo.model.loading import load_video_lm

    return judges.model_right(pairs, load_video_lm(model), progress=progress)


def choose_videos(pairs: Sequence[Pair], max_pairs: int, *, seed: int) -> list[Pair]:
    """All pairs of as many videos, drawn by the seed, as `max_pairs` allows; of `MIN_VIDEOS` at least."""
    by_video: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_video.setdefault(pair.video_id, []).append(pair)
    chosen: list[Pair] = []
    drawn = sorted(by_video, key=lambda video: derive_seed(seed, video, "audit"))
    for number, video in enumerate(drawn):
        if number >= MIN_VIDEOS and len(chosen) + len(by_video[video]) > max_pairs:
            break
        chosen += by_video[video]
    return sorted(chosen, key=lambda pair: pair.id)


def summarise(right_P: judges.Array, pairs: Sequence[Pair], *, seed: int) -> dict[str, Any]:
    """A judge's accuracy overall, by kind and by level (easiest first)."""
    levels = sorted({pair.level for pair in pairs}, reverse=True)

    def part(names: Sequence[str], wanted: str) -> dict[str, Any]:
        videos = [pair.video_id for pair, name in zip(pairs, names, strict=True) if name == wanted]
        return score(right_P[np.array(names) == wanted], videos, seed=seed)

    kind_P, level_P = [pair.kind for pair in pairs], [str(pair.level) for pair in pairs]
    return {
        **score(right_P, [pair.video_id for pair in pairs], seed=seed),
        "by_kind": {kind: part(kind_P, kind) for kind in sorted(set(kind_P))},
        "by_level": {str(level): part(level_P, str(level)) for level in levels},
    }


def score(right_P: judges.Array, videos: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Accuracy with its 95 % interval, and how many pairs and videos it comes from.

    Pairs of one video share their chosen answer, so the bootstrap draws whole videos. Of fewer than
    `MIN_VIDEOS`, or where every pair is right or none, it knows too little spread: Wilson's interval for as
    many samples as videos, which is wider, stands in.
    """
    num_videos = len(set(videos))
    found = {"num_pairs": len(videos), "num_videos": num_videos}
    accuracy = float(right_P.mean())
    if num_videos < MIN_VIDEOS or accuracy in (0.0, 1.0):
        interval = wilson_interval(accuracy * num_videos, num_videos)
    else:
        interval = cluster_interval(right_P, videos, seed=derive_seed(seed, "audit", "bootstrap"))
    return {"accuracy": round(accuracy, 4), "interval": [round(bound, 4) for bound in interval], **found}
