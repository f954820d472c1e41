"""What is measured of a model: the benchmark of its seed, and the probe on pairs that nobody trained on."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from research.study.plan import MeasureJob
from tempo.core.records import Clips, Outcome, Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.benchmark import STATIC_ASPECTS, read_samples, summarize
from tempo.evaluation.evaluate import ask, benchmark_path, stored_id
from tempo.evaluation.probe import Comparison, compare
from tempo.evaluation.probe_summary import summarize as summarize_probe
from tempo.evaluation.probe_videos import Seen
from tempo.model.chat import VideoLM
from tempo.model.loading import load_video_lm
from tempo.preference.inputs import frames_by_clip
from tempo.video.frames import FrameStore


def measure(job: MeasureJob, path: str) -> dict[str, Any]:
    """The figures of the model at `path`: `accuracy`, `num_samples`, `static_accuracy`, `probe`."""
    context = Context(job.data.config, job.data.directory)
    lm = load_video_lm(context.config.model.model_copy(update={"path": path}))
    outcomes = _outcomes(lm, context, blind=job.blind)
    summary = summarize(outcomes)
    scores = {"temporal": summary, **summary["by_aspect"]}
    scores |= {name: summary[name] for name in ("group_score", "text_score", "video_score")}
    comparisons = [] if job.blind else _probe(lm, context, job.probe_videos)
    return {
        "accuracy": {name: score["accuracy"] for name, score in scores.items() if name != "static"},
        "num_samples": {name: score["num_samples"] for name, score in scores.items()},
        "static_accuracy": summary["static"]["accuracy"],
        "chance": {
            "temporal": _chance([o for o in outcomes if o.aspect not in STATIC_ASPECTS]),
        },
        "probe": _figures(comparisons, context.config.run.seed) if comparisons else None,
    }


def _outcomes(lm: VideoLM, context: Context, *, blind: bool) -> list[Outcome]:
    path = benchmark_path(context)
    assert path is not None, "a study is of the embedded world, which brings its benchmark"
    frames = FrameStore(context.directory / "frames")
    ordered = sorted(read_samples(path), key=lambda sample: sample.video)
    outcomes: list[Outcome] = []
    for video, rows in groupby(ordered, key=lambda sample: sample.video):
        stored = frames.read(stored_id(context, frames, path.parent / video))
        seen = np.zeros_like(stored.frames) if blind else stored.frames
        outcomes += ask(lm, list(rows), (seen, stored.fps))
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
        seen = Seen(name, clips[name].path, frames_by_clip(clips[name], frames))
        pair = told[name]
        comparisons += compare(lm, seen, pair.chosen, prompt=pair.prompt, seed=context.config.run.seed)
    return comparisons


def _figures(comparisons: list[Comparison], seed: int) -> dict[str, Any]:
    summary = summarize_probe(comparisons, seed=seed)
    return {
        **_pair(summary),
        "num_videos": summary["num_videos"],
        "by_kind": {kind: _pair(score) for kind, score in summary["by_kind"].items()},
    }


def _pair(score: dict[str, Any]) -> dict[str, float]:
    """Win rate, and the margin in nats per token."""
    return {"win_rate": _value(score["win_rate"]), "margin": _value(score["margin_per_token"])}


def _value(figure: Any) -> float:
    return float(figure["mean"] if isinstance(figure, dict) else figure)
