"""What is measured of a model: the benchmark of its seed, and the probe on pairs that nobody trained on."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from research.study.plan import MeasureJob
from tempo.core.records import Clips, Outcome, Pair, Sample
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.benchmark import STATIC_ASPECTS, read_samples, score_outcomes
from tempo.evaluation.evaluate import ask, benchmark_frames, benchmark_path
from tempo.evaluation.probe import compare
from tempo.evaluation.probe_report import Comparison, ProbeScore, report_comparisons
from tempo.model.chat import VideoLM
from tempo.model.loading import load_model
from tempo.preference.responses import frames_by_clip
from tempo.video.frames import FrameStore


def measure(job: MeasureJob, path: str) -> dict[str, Any]:
    """The figures of the model at `path`: `accuracy`, `num_samples`, `static_accuracy`, `probe`."""
    context = Context(job.data.config, job.data.directory)
    lm = load_model(**context.config.model.model_dump() | {"path": path})
    path = benchmark_path(context)
    assert path is not None, "a study is of the embedded world, which brings its benchmark"
    samples = read_samples(path)
    outcomes = _outcomes(lm, context, samples, blind=job.blind)
    report = score_outcomes(outcomes, samples)
    scores = {"temporal": report, **report.by_aspect}
    scores |= {name: getattr(report, name) for name in ("group_score", "text_score", "video_score")}
    comparisons = [] if job.blind else _probe(lm, context, job.probe_videos)
    return {
        "accuracy": {name: score.accuracy for name, score in scores.items() if name != "static"},
        "num_samples": {name: score.num_samples for name, score in scores.items()},
        "static_accuracy": report.static.accuracy,
        "chance": {
            "temporal": _chance([o for o in outcomes if o.aspect not in STATIC_ASPECTS]),
        },
        "probe": _figures(comparisons, context.config.run.seed) if comparisons else None,
    }


def _outcomes(lm: VideoLM, context: Context, samples: list[Sample], *, blind: bool) -> list[Outcome]:
    ordered = sorted(samples, key=lambda sample: sample.video)
    outcomes: list[Outcome] = []
    for video, rows in groupby(ordered, key=lambda sample: sample.video):
        stored = benchmark_frames(context, video)
        seen = np.zeros_like(stored.images) if blind else stored.images
        outcomes += ask(lm, list(rows), seen, fps=stored.fps)
    return outcomes


def _chance(outcomes: list[Outcome]) -> float:
    """The accuracy of drawing an option."""
    return float(np.mean([1 / len(outcome.log_likelihoods) for outcome in outcomes]))


def _probe(lm: VideoLM, context: Context, num_videos: int) -> list[Comparison]:
    """What the model makes of the base model's own accounts of held-out videos, clean and perturbed."""
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    # A mirrored pair is about the perturbed video.
    told = {pair.video_id: pair for pair in store.read("held_out_pairs", Pair) if not pair.frames}
    clips = {row.id: row for row in store.read("clips", Clips)}
    comparisons: list[Comparison] = []
    for name in sorted(told)[:num_videos]:
        pair, footage = told[name], frames_by_clip(clips[name], frames)
        seed = context.config.run.seed
        comparisons += compare(lm, footage, pair.chosen, video=name, prompt=pair.prompt, seed=seed)
    return comparisons


def _figures(comparisons: list[Comparison], seed: int) -> dict[str, Any]:
    report = report_comparisons(comparisons, seed=seed)
    return {
        **_pair(report),
        "num_videos": report.num_videos,
        "by_kind": {kind: _pair(score) for kind, score in report.by_kind.items()},
    }


def _pair(score: ProbeScore) -> dict[str, float]:
    """Win rate, and the margin in nats per token."""
    return {"win_rate": score.win_rate, "margin": score.margin_per_token}
