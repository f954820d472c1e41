"""The evaluation stage: every model of a run on the held-out videos, and on the benchmark if there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from tempo.core.files import sort_lines, write_json
from tempo.core.records import Outcome, Record, Sample
from tempo.core.store import RunStore
from tempo.engine.pool import map_batches
from tempo.engine.types import Context, Worker
from tempo.evaluation import held_out
from tempo.evaluation.benchmark import benchmark_items, read_samples, score_outcomes
from tempo.evaluation.evaluate import ask, by_video, read_video
from tempo.evaluation.figures import RESULT, make_figure
from tempo.evaluation.held_out import HeldOutResult, HeldOutVideo
from tempo.evaluation.public.results import result_notes, task_result
from tempo.evaluation.public.tasks import answer_task, load_task
from tempo.model.chat import VideoLM
from tempo.training.adapters import TrainedModel
from tempo.training.phases import trained_models
from tempo.video.find import video_id
from tempo.video.frames import Frames, FrameStore

#: The table of the base model's and the result's descriptions.
DESCRIPTIONS = "evaluation/descriptions"


class Job(Record):
    """What one model is asked about one video (its `id`): the rows of `table` with the ids `missing`."""

    model: str
    table: str
    missing: tuple[str, ...]


class Answers(Record):
    """The rows of a job; `id` is their table."""

    rows: tuple[Record, ...]


def run_evaluation(context: Context, progress: Callable[[str, int, int], None]) -> None:
    """Compares the base model, the baselines and the trained model; writes `evaluation.json`.

    `progress` gets the names of the models, or a model and a public benchmark, and the numbers of videos done
    and in total. Answers that were stored before a stop are kept.
    """
    seed, config, path = context.config.run.seed, context.config.evaluation, benchmark_path(context)
    read = read_samples(path, max_bad_share=context.config.run.max_bad_share) if path else None
    samples, videos = [*read.rows.values()] if read else [], held_out.read_held_out(context)
    notes = held_out.notes(context, videos)
    tasks = [load_task(settings) for settings in config.benchmarks]
    if not path and not tasks:
        notes.append("no benchmark: evaluation.benchmark can name a JSONL file of samples")
    store, models = RunStore(context.directory), _models(context)
    total, jobs = _find_jobs(store, [*models], videos, samples)
    worker, batches = "tempo.evaluation.run:make_worker", ([job] for job in jobs)
    found = map_batches(worker, context, batches, place="model", stage="evaluation")
    for number, (answers,) in enumerate(found, total - len(jobs) + 1):
        if not isinstance(answers, Answers):
            raise ValueError(f"evaluation: a process died twice: {answers}")
        store.append(answers.id, answers.rows)
        progress(", ".join(models), number, total)
    for table in {job.table for job in jobs}:
        # The processes finish in any order.
        sort_lines(store.path(table), bytes)
    for name, model in models.items() if tasks else ():
        load = functools.cache(model.for_inference)
        for task in tasks:
            show = partial(progress, f"{name} on {task.settings.name}")
            answer_task(task, name, load, context.config, store=store, progress=show)
    asked = {video.id for video in videos} | {sample.id for sample in samples}
    results, outcomes = dict[str, list[HeldOutResult]](), dict[str, list[Outcome]]()
    for name in models:
        rows = store.read(f"evaluation/held_out/{name}", HeldOutResult)
        results[name] = [row for row in rows if row.id in asked]
        outcomes[name] = [row for row in store.read(f"evaluation/{name}", Outcome) if row.id in asked]
    figures = held_out.held_out_figures(results, seed=seed)
    items = {name: benchmark_items(rows, samples) for name, rows in outcomes.items()}
    figures += [
        make_figure("benchmark", figure, {name: own[figure] for name, own in items.items()}, seed=seed)
        for figure in items["base"]
    ]
    public = [task_result(task, context.config) for task in tasks]
    figures += [figure for result in public for figure in result.figures]
    notes += [note for result in public for note in result_notes(result)]
    reports = {name: score_outcomes(rows, samples, seed=seed) for name, rows in outcomes.items()}
    evaluation: dict[str, Any] = {
        "benchmark": path and str(path),
        "num_samples": len(samples),
        "bad_rows": read.faults if read else {},
        "scoring": config.scoring,
        "transformers": transformers.__version__,
        "models": {name: report.model_dump(mode="json") for name, report in reports.items() if samples},
        "public": [result.model_dump(mode="json", exclude={"figures"}) for result in public],
        "figures": [figure.model_dump(mode="json") for figure in figures],
        "notes": notes,
    }
    write_json(context.directory / "evaluation.json", evaluation)


def _models(context: Context) -> dict[str, TrainedModel]:
    return {"base": TrainedModel(context.config.model, Path()), **trained_models(context)}


def _find_jobs(
    store: RunStore, models: Sequence[str], videos: Sequence[HeldOutVideo], samples: Sequence[Sample]
) -> tuple[int, list[Job]]:
    """The number of all jobs, and the unfinished ones, model by model."""
    asked = list[tuple[str, str, str, list[str]]]()
    for model in models:
        asked += [(model, f"evaluation/held_out/{model}", video.id, [video.id]) for video in videos]
        shown = videos[: held_out.NUM_DESCRIBED] if model in ("base", RESULT) else []
        asked += [(model, DESCRIPTIONS, video.id, [f"{video.id}/{model}"]) for video in shown]
        parts = ((rows[0].video, [row.id for row in rows]) for rows in by_video(samples))
        asked += [(model, f"evaluation/{model}", *part) for part in parts]
    known = {table: {*store.rows(table, Record)} for table in {table for _, table, _, _ in asked}}
    jobs = [
        Job(id=video, model=model, table=table, missing=tuple(row for row in rows if row not in known[table]))
        for model, table, video, rows in asked
    ]
    return len(jobs), [job for job in jobs if job.missing]


def make_worker(context: Context) -> Worker:
    """A worker that maps Jobs to Answers; it holds the model of its last job."""
    config, path, models = context.config, benchmark_path(context), _models(context)
    videos = {video.id: video for video in held_out.read_held_out(context)}
    samples = read_samples(path, max_bad_share=config.run.max_bad_share).rows.values() if path else ()
    loaded = dict[str, VideoLM]()

    def answer(job: Job) -> Sequence[Record]:
        if job.model not in loaded:
            # First, because both models may not fit on the device.
            loaded.clear()
            loaded[job.model] = models[job.model].for_inference()
        lm = loaded[job.model]
        if job.table == DESCRIPTIONS:
            return [held_out.describe(context, lm, job.model, videos[job.id])]
        if job.table == f"evaluation/held_out/{job.model}":
            return [held_out.answer(context, lm, videos[job.id])]
        assert path is not None
        frames = benchmark_frames(context, path.parent / job.id)
        rows = [row for row in samples if row.id in job.missing]
        times: dict[str, Any] = {"fps": frames.fps, "seconds": frames.seconds.tolist()}
        scoring, max_tokens = config.evaluation.scoring, config.training.max_tokens
        return ask(lm, rows, frames.images, **times, scoring=scoring, max_tokens=max_tokens)

    return lambda batch: [Answers(id=job.table, rows=tuple(answer(job))) for job in batch]


def benchmark_path(context: Context) -> Path | None:
    """The benchmark of a run: that of the embedded world, the user's, or None."""
    if context.config.synthetic:
        return context.directory / "synthetic" / "held_out" / "benchmark.jsonl"
    return Path(context.config.evaluation.benchmark) if context.config.evaluation.benchmark else None


def benchmark_frames(context: Context, path: Path) -> Frames:
    """The frames of a benchmark's video, from the frame store of the run, to which they are added if missing.

    Raises ValueError that names a video which cannot be read, because accuracies count all samples.
    """
    store, name = FrameStore(context.directory / "frames"), video_id(path)
    if not store.has(name):
        sampled = read_video(path, context.config.frames, context.config.videos.timeout_seconds)
        store.write(name, sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)
    return store.read(name)
