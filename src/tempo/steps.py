"""How each stage is run: mapped over rows, or in one piece. Heavy modules are imported inside."""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo import engine
from tempo.config import Config
from tempo.model.paths import check_model_path
from tempo.progress import Counter, Counters
from tempo.records import Drop, Record, Video
from tempo.stage import Context
from tempo.store import DROPPED, RunStore, write_json, write_lines, write_text

#: Videos that one worker call takes together where it runs here: a model draws their answers in batches.
HERE_BATCH = 8


@dataclass(frozen=True)
class MapStep:
    """Maps the rows of `reads` through the worker, and writes what comes as it comes.

    `here` keeps it in this process, several videos at a time: for stages that hold a model, or cost nothing.
    """

    worker: str
    reads: str
    reads_record: type[Record]
    here: bool

    def __call__(self, context: Context, store: RunStore, console: Console) -> None:
        """Does what is left of the stage."""
        name = self.worker.split(":")[0].rpartition(".")[2]
        rows = store.read(self.reads, self.reads_record)
        handled = store.handled_ids(name)
        size = HERE_BATCH if self.here else 1
        # Batches are cut before the handled ones are left out: a resumed batch holds the same records as
        # the first time, so the model computes the same numbers.
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        left = [batch for batch in batches if any(row.id not in handled for row in batch)]
        counter = Counter(console, name, len(rows), done=len(rows) - sum(map(len, left)))
        workers = engine.count_workers(context.config.run.num_workers)
        results = (
            engine.run_here(self.worker, context, left)
            if self.here
            else engine.run_pool(self.worker, context, left, num_workers=workers, stage=name)
        )
        with counter.live():
            for result in results:
                write_result(store, name, [row for row in result if row.id not in handled])
                counter.advance(len(result))


def write_result(store: RunStore, name: str, rows: Sequence[Record]) -> None:
    """Appends records to the stage's file and drops to the common one."""
    store.append(name, [row for row in rows if not isinstance(row, Drop)])
    store.append(DROPPED, [row for row in rows if isinstance(row, Drop)])


def run_synthetic(context: Context, store: RunStore, console: Console) -> None:
    """Renders the embedded world into `synthetic/`."""
    from tempo.synthetic.dataset import make_dataset

    settings = context.config.synthetic
    assert settings is not None
    with Counter(console, "synthetic", settings.num_videos + 2 * settings.num_held_out).live() as counter:
        make_dataset(
            settings,
            context.directory / "synthetic",
            seed=context.config.run.seed,
            num_workers=engine.count_workers(context.config.run.num_workers),
            progress=counter.advance,
        )


def run_videos(context: Context, store: RunStore, console: Console) -> None:
    """Identifies every file; of two with the same content the first path stays, the other is dropped."""
    from tempo.video.videos import VideoFile, find_videos

    paths = context.config.videos.paths or (str(context.directory / "synthetic" / "videos"),)
    files = [str(path) for path in find_videos(paths, context.config.videos.extensions)]
    handled = {row.path for row in store.read("videos", Video)} | store.handled_ids("videos")
    batches = [[VideoFile(id=path)] for path in files if path not in handled]
    workers = engine.count_workers(context.config.run.num_workers)
    with Counter(console, "videos", len(batches)).live() as counter:
        results = engine.run_pool(
            "tempo.video.videos:make_worker", context, batches, num_workers=workers, stage="videos"
        )
        for result in results:
            write_result(store, "videos", result)
            counter.advance()
    _drop_duplicates(store)


def _drop_duplicates(store: RunStore) -> None:
    first: dict[str, Video] = {}
    twice: list[Drop] = []
    for video in sorted(store.read("videos", Video), key=lambda video: video.path):
        if video.id in first:
            detail = f"same content as {first[video.id].path}"
            twice.append(Drop(stage="videos", id=video.path, reason="duplicate", detail=detail))
        first.setdefault(video.id, video)
    known = store.handled_ids("videos")
    store.append(DROPPED, [drop for drop in twice if drop.id not in known])
    write_lines(store.path("videos"), (video.model_dump_json() for video in first.values()))


def run_pairs(context: Context, store: RunStore, console: Console) -> None:
    """Makes all pairs in one piece."""
    from tempo.preference.pairs import make_pairs

    pairs, drops = make_pairs(context)
    known = store.handled_ids("pairs")
    store.append(DROPPED, [drop for drop in drops if drop.id not in known])
    write_lines(store.path("pairs"), (pair.model_dump_json() for pair in pairs))
    console.print(f"pairs: {len(pairs)} kept, {len(drops)} filtered out")


def run_training(context: Context, store: RunStore, console: Console) -> None:
    """Trains every phase that is not done."""
    from tempo.training.phases import run_training as train

    with Counters(console) as counters:
        train(
            context,
            lambda phase, step, steps, row: counters.show(phase, step, steps, _figures(row)),
            console.print,
        )


def _figures(row: dict[str, float]) -> str:
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return " ".join(f"{short} {row[name]:.3f}" for name, short in names.items() if name in row)


def run_evaluation(context: Context, store: RunStore, console: Console) -> None:
    """Asks every model the benchmark; the table is printed when the run ends."""
    from tempo.evaluation.evaluate import run_evaluation as evaluate

    with Counters(console) as counters:
        evaluate(context, lambda model, done, total: counters.show(f"evaluation of {model}", done, total))


def run_report(context: Context, store: RunStore, console: Console) -> None:
    """Writes the page."""
    from tempo.report.report import write_report

    console.print(f"report: {write_report(context)}")


def check_inputs(config: Config, *, with_model: bool) -> None:
    """Raises ValueError, before any work, for a path in the configuration that leads nowhere."""
    if with_model:
        check_model_path(config.model.path)
    files = {
        "training.instructions": config.training.instructions,
        "evaluation.benchmark": config.evaluation.benchmark,
    }
    for key, path in files.items():
        if path and not Path(path).is_file():
            raise ValueError(f"{key}: {path} does not exist")
    for path in config.videos.paths:
        if not Path(path).expanduser().exists():
            raise ValueError(f"videos.paths: {path!r} does not exist")


def discard_files(name: str, directory: Path) -> None:
    """Removes what a stage wrote beside its rows."""
    beside = {
        "synthetic": ["synthetic"],
        "shots": ["frames"],
        "training": ["train", "baselines", "model"],
        "evaluation": ["evaluation", "evaluation.json"],
        "report": ["report.html"],
    }
    for entry in beside.get(name, []):
        path = directory / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_config(context: Context) -> None:
    """Writes the whole configuration, defaults included, and what it ran on."""
    import tomli_w

    plain = context.config.model_dump(mode="json", exclude_none=True, exclude_unset=False)
    write_text(context.directory / "config.toml", tomli_w.dumps(plain))
    write_json(context.directory / "environment.json", environment())


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration written down in a run directory; empty where there is none."""
    path = directory / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def environment() -> dict[str, Any]:
    """Versions of what the results depend on."""
    names = ("tempo-dpo", "torch", "transformers", "peft", "accelerate", "av", "scenedetect", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "num_cores": engine.count_workers(0),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
