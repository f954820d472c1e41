"""The evaluation stage: every model of a run on the held-out videos, and on the benchmark if there is one.

Before a run, `check_benchmarks` checks that the longest video of each benchmark fits into the model.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import transformers

from tempo.config import Config
from tempo.config.running import Scoring
from tempo.core.files import UserFile, write_json
from tempo.core.records import Outcome, Record, Sample
from tempo.core.store import RunStore
from tempo.engine.pool import count_local, map_batches
from tempo.engine.types import Batch, Context, Result, SkipRecord, Worker, flatten
from tempo.evaluation import held_out
from tempo.evaluation.evaluate import (
    answer_parts,
    ask,
    benchmark_items,
    by_video,
    options_of,
    read_samples,
    read_video,
    shown,
)
from tempo.evaluation.figures import Item, make_figures
from tempo.evaluation.held_out import HeldOutResult, HeldOutVideo
from tempo.evaluation.public.tasks import Task, answer_task, load_task, result_notes, task_result
from tempo.model.chat import Prefix, VideoLM, check_length
from tempo.model.loading import load_without_weights
from tempo.training.phases import run_models
from tempo.video.find import read_header, video_id
from tempo.video.frames import Frames, FrameStore, frame_shape

#: What models are asked about; held-out videos are also described.
HELD_OUT_VIDEOS, BENCHMARK, DESCRIPTIONS = "held-out videos", "the benchmark", "descriptions"

#: Gets a label, and the numbers of videos done and in total.
Progress: TypeAlias = Callable[[str, int, int], None]


def run_evaluation(context: Context, progress: Progress) -> None:
    """Compares the base model, the baselines and the trained model; writes `evaluation.json`.

    `progress` gets a label with the model and what it is evaluated on, and the numbers of videos done and in
    total. Answers that were stored before a stop are kept.
    """
    config, path = context.config, benchmark_path(context)
    read, videos = _read_benchmark(context), held_out.read_held_out(context)
    notes = held_out.notes(context, videos)
    tasks = [load_task(settings) for settings in config.evaluation.benchmarks]
    if not path and not tasks:
        notes.append("no benchmark: evaluation.benchmark can name a JSONL file of samples")
    models, asked = run_models(context), _asked(videos, read)
    if config.run.engine == "local" and count_local(config, "model") > 1:
        _answer_in_processes(context, models, asked, progress)
    items, held_out_items = dict[str, dict[str, list[Item]]](), dict[str, dict[str, list[Item]]]()
    for name, model in models.items():
        # Loaded only if something is missing; the previous model is freed first.
        load = functools.cache(model.for_inference)
        results = _answers(context, name, HELD_OUT_VIDEOS, asked, load, progress)
        described = held_out.describe(context, load, name, videos)
        held_out_items[name] = held_out.result_items(results) | held_out.description_items(context, described)
        items[name] = benchmark_items(_answers(context, name, BENCHMARK, asked, load, progress))
        for task in tasks:
            show = partial(progress, f"{name} on {task.settings.name}")
            answer_task(task, name, load, config, store=RunStore(context.directory), progress=show)
    figures = make_figures("held-out videos", held_out_items, seed=config.run.seed)
    figures += make_figures("benchmark", items, seed=config.run.seed)
    public = [task_result(task, config) for task in tasks]
    figures += [figure for result in public for figure in result.figures]
    notes += [note for result in public for note in result_notes(result)]
    evaluation: dict[str, Any] = {
        "benchmark": path and str(path),
        "num_samples": len(read.rows) if read else 0,
        "bad_rows": read.faults if read else {},
        "scoring": config.evaluation.scoring,
        "transformers": transformers.__version__,
        "public": [result.model_dump(mode="json", exclude={"figures"}) for result in public],
        "figures": [figure.model_dump(mode="json") for figure in figures],
        "notes": notes,
    }
    write_json(context.directory / "evaluation.json", evaluation)


def _answer_in_processes(
    context: Context, models: Iterable[str], asked: dict[str, Any], progress: Progress
) -> None:
    """Computes and stores the answers in several processes, the longest parts first."""
    for rows in asked[BENCHMARK][0]:
        # Here, because two of the processes would write the same file at the same time.
        benchmark_frames(context, rows[0].video)
    units = [[f"{name}/{source}"] for source in reversed(asked) if asked[source][0] for name in models]
    if asked[HELD_OUT_VIDEOS][0]:
        # In one process, because they have one file.
        units.insert(0, [f"{name}/{DESCRIPTIONS}" for name in models])
    batches = [[Record(id=name) for name in unit] for unit in units]
    answered = map_batches(f"{__name__}:make_worker", context, batches, place="model", stage="evaluation")
    for done, lost in enumerate(map(flatten, answered), 1):
        if lost:
            raise ValueError(
                f"evaluation: the process for {lost[0].id} died twice. Check that there is enough free "
                "memory, and start the run again"
            )
        progress("all models", done, len(units))


def _asked(videos: Sequence[HeldOutVideo], read: UserFile[Sample] | None) -> dict[str, Any]:
    """What each model is asked: parts, the function that answers one, the type of rows, and their folder."""
    samples = [*read.rows.values()] if read else []
    return {
        HELD_OUT_VIDEOS: ([[video] for video in videos], held_out.answer, HeldOutResult, "held_out/"),
        BENCHMARK: (by_video(samples), _answer, Outcome, ""),
    }


def _answers(
    context: Context,
    name: str,
    source: str,
    asked: dict[str, Any],
    load: Callable[[], VideoLM],
    progress: Progress,
) -> list[Any]:
    """The rows of a model; those that are stored are reused."""
    parts, make, record, folder = asked[source]
    answer, show = partial(make, context, load), partial(progress, f"{name} on {source}")
    place: dict[str, Any] = {"store": RunStore(context.directory), "table": f"evaluation/{folder}{name}"}
    return answer_parts(parts, answer, record, **place, progress=show)


def make_worker(context: Context) -> Worker:
    """A worker that stores the rows of MODEL/SOURCE, the id of a record, or a model's descriptions."""
    read, videos, models = _read_benchmark(context), held_out.read_held_out(context), run_models(context)
    asked = _asked(videos, read)

    def work(batch: Batch) -> Result:
        for unit in batch:
            name, _, source = unit.id.partition("/")
            load = functools.cache(models[name].for_inference)
            if source == DESCRIPTIONS:
                held_out.describe(context, load, name, videos)
            else:
                _answers(context, name, source, asked, load, lambda *_: None)
        return ()

    return work


def _answer(context: Context, load: Callable[[], VideoLM], rows: Sequence[Sample]) -> list[Outcome]:
    frames = benchmark_frames(context, rows[0].video)
    scoring, max_tokens = context.config.evaluation.scoring, context.config.training.max_tokens
    return ask(load(), rows, **shown(frames), scoring=scoring, max_tokens=max_tokens)


def benchmark_path(context: Context) -> Path | None:
    """The benchmark of a run: that of the embedded world, the user's, or None."""
    if context.config.synthetic:
        return context.directory / "synthetic" / "held_out" / "benchmark.jsonl"
    return Path(context.config.evaluation.benchmark) if context.config.evaluation.benchmark else None


def _read_benchmark(context: Context) -> UserFile[Sample] | None:
    path = benchmark_path(context)
    return read_samples(path, max_bad_share=context.config.run.max_bad_share) if path else None


def benchmark_frames(context: Context, video: str) -> Frames:
    """The frames of a benchmark's video, from the frame store of the run, to which they are added if missing.

    Raises ValueError that names a video which cannot be read, because accuracies count all samples.
    """
    benchmark = benchmark_path(context)
    assert benchmark is not None, "without a benchmark there are no videos"
    store, name = FrameStore(context.directory / "frames"), video_id(path := benchmark.parent / video)
    if not store.has(name):
        sampled = read_video(path, context.config.frames, context.config.videos.timeout_seconds)
        store.write(name, sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)
    return store.read(name)


def check_benchmarks(config: Config) -> None:
    """Raises ValueError if a benchmark cannot be read, or if its longest video is too long for the model."""
    settings = config.evaluation
    if path := settings.benchmark:
        samples = read_samples(Path(path), max_bad_share=config.run.max_bad_share).rows.values()
        asked = [(str(Path(path).parent / rows[0].video), rows) for rows in by_video([*samples])]
        _check_longest(config, path, asked, settings.scoring)
    for public in settings.benchmarks:
        check_task(load_task(public), config)


def check_task(task: Task, config: Config) -> None:
    """Raises ValueError if the longest video is too long for the model; ignores those inside archives."""
    scoring = "letter" if task.settings.scoring == "generate" else task.settings.scoring
    found = [(task.data.find(rows[0].video), [row.sample(scoring) for row in rows]) for rows in task.asked()]
    asked = [(video.files[0], rows) for video, rows in found if video and not video.archive]
    _check_longest(config, task.settings.name, asked, scoring, task.num_frames)


def _check_longest(
    config: Config,
    name: str,
    asked: Sequence[tuple[str, Sequence[Sample]]],
    scoring: Scoring,
    num_frames: int | None = None,
) -> None:
    """`asked` are the paths of videos, whose headers are read, with the questions about them."""
    frames, shapes = config.frames, []
    if num_frames:
        frames = frames.model_copy(update={"fps": 100.0 * num_frames, "max_frames": num_frames})
    for path, rows in asked:
        with suppress(SkipRecord):
            shapes.append((frame_shape(read_header(path, ""), frames), path, rows))
    if shapes:
        (*size, fps), path, rows = max(shapes, key=lambda row: (row[0][0], row[0][1] * row[0][2]))
        lm, limit = load_without_weights(config.model)
        options = [option for row in rows for option in options_of(row, scoring)]
        group = lm.group(Prefix(np.zeros((*size, 3), np.uint8), "", fps=fps), options)
        rate = {"rate": "num_frames"} if num_frames else {}
        check_length(lm, group, f"{name}: {path}", limit=limit, **rate)
