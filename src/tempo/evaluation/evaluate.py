"""Asks every model the benchmark: all questions about a video over one prefix, the likeliest option wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import torch

from tempo.config import Config
from tempo.core.records import Outcome, Sample
from tempo.core.store import RunStore, write_json
from tempo.engine.types import Context, SkipRecord
from tempo.evaluation.benchmark import check_video, read_samples, summarize
from tempo.model.chat import Continuation, Prefix, VideoLM, log_probs
from tempo.model.loading import load_video_lm
from tempo.pipeline.rounds import earlier_rounds
from tempo.training.phases import phase_directories
from tempo.video.frames import FrameStore, Sampled
from tempo.video.patience import with_patience
from tempo.video.sampling import sample_video
from tempo.video.videos import video_id

#: Called with the model's name, videos done and videos in all.
Progress = Callable[[str, int, int], None]


def run_evaluation(context: Context, progress: Progress) -> None:
    """Evaluates base model, baselines, what earlier rounds left, and the result; writes `evaluation.json`."""
    path = benchmark_path(context)
    models = {"base": context.config.model.path, **_trained_models(context)}
    if path is None:
        note = (
            "no benchmark: set evaluation.benchmark to a JSONL file of samples (README.md says what a row is)"
        )
        write_json(context.directory / "evaluation.json", {"benchmark": None, "note": note, "models": {}})
        return
    samples = read_samples(path)
    summaries = {
        name: summarize(_outcomes(context, name, model, path, samples, progress))
        for name, model in models.items()
    }
    table = {"benchmark": str(path), "num_samples": len(samples), "models": summaries}
    write_json(context.directory / "evaluation.json", table)


def benchmark_path(context: Context) -> Path | None:
    """The benchmark of the run: the user's, the embedded world's, or none."""
    if context.config.synthetic:
        return context.directory / "synthetic" / "held_out" / "benchmark.jsonl"
    return Path(context.config.evaluation.benchmark) if context.config.evaluation.benchmark else None


def ask(lm: VideoLM, samples: Sequence[Sample], group_frames: tuple[object, float]) -> list[Outcome]:
    """Outcomes of samples about one video, given its frames and their rate: one pass over the video."""
    frames, fps = group_frames
    options = [Continuation(option, sample.question) for sample in samples for option in sample.options]
    prefix = Prefix(frames, "", fps=fps)  # type: ignore[arg-type]
    with torch.no_grad():
        scores = iter(float(logp) for logp in log_probs(lm, prefix, options))
    return [
        Outcome(
            id=sample.id,
            aspect=sample.aspect,
            format=sample.format,
            answer=sample.answer,
            group=sample.group,
            log_likelihoods=tuple(round(next(scores), 4) for _ in sample.options),
        )
        for sample in samples
    ]


def _trained_models(context: Context) -> dict[str, str]:
    """Name to checkpoint of what was trained: baselines, earlier rounds, the method, as in every table."""
    last = {name: phases[-1] / "model" for name, phases in phase_directories(context).items() if phases}
    method = last.pop("tempo", None)
    last |= {f"round_{row.config.run.rounds}": row.directory / "model" for row in earlier_rounds(context)}
    last |= {"tempo": method} if method else {}
    return {name: str(path) for name, path in last.items()}


def _outcomes(
    context: Context, name: str, model: str, path: Path, samples: Sequence[Sample], progress: Progress
) -> list[Outcome]:
    """The outcomes of one model, kept in `evaluation/NAME.jsonl`: a sample in it is not asked again."""
    store = RunStore(context.directory)
    table = f"evaluation/{name}"
    known = {outcome.id for outcome in store.read(table, Outcome)}
    ordered = sorted(samples, key=lambda sample: sample.video)
    videos = [list(rows) for _, rows in groupby(ordered, key=lambda sample: sample.video)]
    open_ones = [rows for rows in videos if any(sample.id not in known for sample in rows)]
    if open_ones:
        lm = load_video_lm(context.config.model.model_copy(update={"path": model}))
        frames = FrameStore(context.directory / "frames")
        for number, rows in enumerate(open_ones, len(videos) - len(open_ones) + 1):
            stored = frames.read(stored_id(context, frames, path.parent / rows[0].video))
            missing = [sample for sample in rows if sample.id not in known]
            store.append(table, ask(lm, missing, (stored.frames, stored.fps)))
            progress(name, number, len(videos))
    wanted = {sample.id for sample in samples}
    return [outcome for outcome in store.read(table, Outcome) if outcome.id in wanted]


def store_benchmark(context: Context) -> None:
    """Puts the frames of all benchmark videos into the run's frame store."""
    if path := benchmark_path(context):
        frames = FrameStore(context.directory / "frames")
        for video in sorted({sample.video for sample in read_samples(path)}):
            stored_id(context, frames, path.parent / video)


def stored_id(context: Context, frames: FrameStore, video: Path) -> str:
    """The id under which a benchmark video's frames lie in the store, after putting them there.

    Raises ValueError that names a video which is gone or cannot be used: all samples count, or none.
    """
    check_video(video)
    name = video_id(video)
    if not frames.has(name):
        try:
            jpegs, seconds, fps = _sample(video, context.config)
        except SkipRecord as dropped:
            raise ValueError(f"evaluation.benchmark names {video}, which cannot be used: {dropped}") from None
        frames.write(name, jpegs, seconds=seconds, fps=fps)
    return name


def _sample(video: Path, config: Config) -> Sampled:
    return with_patience(
        lambda pulse: sample_video(video, config.frames, pulse.beat), config.videos.timeout_seconds
    )
