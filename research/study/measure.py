"""Measures a model on the benchmark of its seed, and with the probe on held-out pairs."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from tempo.core.hashing import held_out_draw
from tempo.core.records import Clips, Outcome, Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.evaluate import SEPARATE_ASPECTS, ask, benchmark_items, by_video, read_samples, shown
from tempo.evaluation.figures import MARGIN
from tempo.evaluation.probe import KINDS, compare, probe_figures
from tempo.evaluation.run import benchmark_frames, benchmark_path
from tempo.model.chat import VideoLM
from tempo.model.loading import load_model
from tempo.preference.responses import frames_by_clip
from tempo.video.frames import FrameStore

#: The names in `study.json` of some figures of the benchmark; the others have `_` for spaces.
NAMES = {
    "temporal questions": "temporal",
    "conflicting, one by one": "conflicting",
    **{f"conflicting, {name} score": f"{name}_score" for name in ("text", "video", "group")},
}


def measure(
    context: Context, path: str, *, blind: bool, held_out_share: float, num_videos: int
) -> dict[str, Any]:
    """The figures of the model at `path` for `study.json`, on the benchmark of the run in `context`.

    A `blind` model sees black frames and is not probed. The probe uses at most `num_videos` of the videos
    with pairs that are held out.
    """
    lm = load_model(**context.config.model.model_dump() | {"path": path})
    benchmark = benchmark_path(context)
    assert benchmark is not None, "the embedded world comes with a benchmark"
    samples, outcomes = [*read_samples(benchmark).rows.values()], list[Outcome]()
    for rows in by_video(samples):
        video = shown(benchmark_frames(context, rows[0].video))
        video["frames"] = np.zeros_like(video["frames"]) if blind else video["frames"]
        outcomes += ask(lm, rows, **video)
    scores = {
        NAMES.get(name, name.replace(" ", "_")): rows
        for name, rows in benchmark_items(outcomes).items()
        if rows
    }
    accuracy = {name: round(fmean(row.value for row in rows), 4) for name, rows in scores.items()}
    chances = [1 / len(sample.options) for sample in samples if sample.aspect not in SEPARATE_ASPECTS]
    return {
        "static_accuracy": accuracy.pop("static", None),
        "accuracy": accuracy,
        "num_samples": {name: len(rows) for name, rows in scores.items()},
        "chance": {"temporal": float(np.mean(chances))},
        "probe": None if blind else _probe(lm, context, held_out_share, num_videos),
    }


def _probe(lm: VideoLM, context: Context, share: float, num_videos: int) -> dict[str, Any] | None:
    """The probe with the base model's own descriptions of held-out videos; None without such videos."""
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    # Without mirrored pairs, whose text describes the perturbed video.
    pairs = {pair.video_id: pair for pair in store.read("pairs", Pair) if not pair.frames}
    clips = {row.id: row for row in store.read("clips", Clips)}
    seed, comparisons = context.config.run.seed, []
    for name in [name for name in sorted(pairs) if held_out_draw(name, seed=seed) < share][:num_videos]:
        footage, pair = frames_by_clip(clips[name], frames), pairs[name]
        comparisons += compare(lm, footage, pair.chosen, video=name, prompt=pair.prompt, seed=seed)
    if not comparisons:
        return None
    figures = {row.name: row for row in probe_figures(comparisons, seed=seed)}

    def scores(kind: str) -> dict[str, float]:
        # The margin is in nats per token.
        names = {"win_rate": f"win rate, {kind}", "margin": f"{MARGIN}, {kind}"}
        return {key: figures[name].values["model"].value for key, name in names.items()}

    kinds = [kind for kind in KINDS if f"win rate, {kind}" in figures]
    num_videos = figures["win rate, all"].num_videos
    return {**scores("all"), "num_videos": num_videos, "by_kind": {kind: scores(kind) for kind in kinds}}
