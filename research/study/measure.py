"""Measures a model on the benchmark of its seed, and with the probe on held-out pairs."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from tempo.core.records import Clips, Outcome, Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.benchmark import STATIC_ASPECTS, read_samples, score_outcomes
from tempo.evaluation.evaluate import ask
from tempo.evaluation.probe import compare
from tempo.evaluation.probe_report import ProbeReport, ProbeScore, report_comparisons
from tempo.evaluation.run import benchmark_frames, benchmark_path
from tempo.model.chat import VideoLM
from tempo.model.loading import load_model
from tempo.preference.pairs import held_out_draw
from tempo.preference.responses import frames_by_clip
from tempo.video.frames import FrameStore


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
    for video, rows in groupby(sorted(samples, key=lambda row: row.video), key=lambda row: row.video):
        stored = benchmark_frames(context, benchmark.parent / video)
        frames = np.zeros_like(stored.images) if blind else stored.images
        outcomes += ask(lm, list(rows), frames, fps=stored.fps, seconds=stored.seconds.tolist())
    report = score_outcomes(outcomes, samples)
    scores = {"temporal": report, **report.by_aspect}
    scores |= {name: getattr(report, name) for name in ("group_score", "text_score", "video_score")}
    chances = [1 / len(sample.options) for sample in samples if sample.aspect not in STATIC_ASPECTS]
    return {
        "accuracy": {name: score.accuracy for name, score in scores.items() if name != "static"},
        "num_samples": {name: score.num_samples for name, score in scores.items()},
        "static_accuracy": report.static.accuracy,
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
    report = report_comparisons(comparisons, seed=seed)

    def figures(score: ProbeScore | ProbeReport) -> dict[str, float]:
        # The margin is in nats per token.
        return {"win_rate": score.win_rate, "margin": score.margin_per_token}

    by_kind = {kind: figures(score) for kind, score in report.by_kind.items()}
    return {**figures(report), "num_videos": report.num_videos, "by_kind": by_kind}
