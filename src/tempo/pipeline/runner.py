"""Runs stages: keeps finished ones, and refuses or discards rows of another configuration."""

import contextlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rich.console import Console

import tempo.pipeline.steps as steps
from tempo.config import Config
from tempo.core.files import append_jsonl, write_json, write_text
from tempo.core.progress import Counter
from tempo.core.records import Frozen, Skipped
from tempo.core.store import REVIEWS, SKIPPED, RunStore, check_run_directory, read_config, write_config
from tempo.engine import pool as engine
from tempo.engine.ranks import call_to_training, process_rank
from tempo.engine.types import Context, count_workers, flatten
from tempo.pipeline.stages import STAGES, Stage, fingerprints, select_stages, versions

#: Videos per call of a worker outside a pool, so that a model can generate their answers in batches.
BATCH_VIDEOS = 8


@dataclass(frozen=True)
class RunResult:
    """The state of a run directory after a run.

    `stages` are the names of the finished stages, and `report` is the path of report.html if it exists.
    `figures` is the table of the evaluation; it is empty before it.
    """

    directory: Path
    stages: tuple[str, ...]
    report: Path | None
    figures: tuple[Frozen, ...]


def run(
    config: Config,
    directory: str | Path,
    *,
    until: str = "",
    from_run: str | Path | None = None,
    redo: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Runs every stage that is not finished yet in `directory`, from the videos to the report.

    `until` is the last stage to run. `from_run` is the directory of another run, from which stages with the
    same settings are reused. `redo` discards stages that were made with other settings. Progress is printed
    to `console`; without one, nothing is printed. Raises ValueError, before any work wherever possible, for a
    bad value, a missing file, or a directory that was made with another configuration.
    """
    context = Context(config, Path(directory))
    source = Path(from_run) if from_run else None
    run_stages(context, console or Console(quiet=True), until=until, source=source, redo=redo)
    store, report = RunStore(context.directory), context.directory / "report.html"
    from tempo.evaluation.figures import read_evaluation

    figures = read_evaluation(context.directory).figures
    done = [stage.name for stage in STAGES if store.is_done(stage.name)]
    return RunResult(context.directory, tuple(done), report if report.exists() else None, figures)


def run_stages(
    context: Context,
    console: Console,
    *,
    until: str = "",
    only: str = "",
    source: Path | None = None,
    redo: bool = False,
) -> None:
    """Runs the selected stages that are not finished (see `run`), or `only` one of them.

    If there are several processes, the first one runs the stages and the others join only the training.
    """
    if process_rank() > 0:
        steps.join_training(context)
        return
    config, store = context.config, RunStore(context.directory)
    wanted = fingerprints(config, context.directory)
    selected = select_stages(config, until=until, only=only)
    if source:
        check_run_directory(source)
    engine.check_engine(config.run)
    if config.run.trackers:
        resolve_name("tempo.training.trackers:check_trackers")(config.run.trackers)
    steps.check_paths(config, [key for stage in STAGES for key in stage.input_files])
    done = {name for name in wanted if store.is_done(name) and store.fingerprint(name) == wanted[name]}
    left = [stage for stage in selected if stage.name not in done]
    for stage in left:
        stage.check(config)
    if any(stage.needs_model(config) for stage in left):
        engine.prepare_processes(config)
        steps.check_model(config)
        steps.check_limits(config, console, [stage.name for stage in left])
    with store.lock():
        _settle(context, console, redo=redo)
        if source:
            take_over(source, context, selected, console)
        _report_changes(context, console)
        # Once for all stages, so that a review during the training makes the trained model stale too.
        wanted = fingerprints(config, context.directory)
        for stage in selected:
            if not store.is_done(stage.name):
                _run_stage(stage, context, console, fingerprint=wanted[stage.name])
    call_to_training(config.model.device, is_needed=False)


def _run_stage(stage: Stage, context: Context, console: Console, *, fingerprint: str) -> None:
    store = RunStore(context.directory)
    for before in STAGES[: STAGES.index(stage)]:
        if not (before.is_auxiliary or before.idle(context.config) or store.is_done(before.name)):
            raise ValueError(f"stage {stage.name!r} needs {before.name!r} first. `tempo run` runs all stages")
    stage.check_before(context)
    store.begin(stage.name, fingerprint, versions())
    (stage.function or partial(map_stage, stage))(context, console)
    store.finish(stage.name, fingerprint, versions())


def map_stage(stage: Stage, context: Context, console: Console) -> None:
    """Passes the rows that a stage reads through its worker, and writes each result when it is ready."""
    config, store, place = context.config, RunStore(context.directory), stage.place(context.config)
    idle = {other.name for other in STAGES if other.idle(config)}
    reads, record = next(source for source in stage.reads if source[0] not in idle)
    rows, known = store.rows(reads, record), store.handled_ids(stage.name)
    # Of the segments of a video, the first one is written last.
    handled = known | {name.removesuffix("-1") for name in known}
    # Enough videos to keep a server busy: each needs at least two requests.
    size = max(BATCH_VIDEOS, config.endpoint.concurrency // 2 if config.endpoint else 0)
    size = 1 if place == "pool" else size
    # Batches are formed before finished records are removed: a resumed batch has the same records as before,
    # so the model computes the same numbers.
    names = list(rows)
    batches = [names[i : i + size] for i in range(0, len(names), size)]
    unfinished = [batch for batch in batches if not handled.issuperset(batch)]
    left = ([rows[name] for name in batch] for batch in unfinished)
    done = len(rows) - sum(map(len, unfinished))
    with Counter(console, stage.name, len(rows), done=done).live() as counter:
        for result in engine.map_batches(stage.worker, context, left, place=place, stage=stage.name):
            made = flatten(result)
            store.append(stage.name, (row for row in made if row.id not in handled))
            counter.advance(len(result), num_tokens=sum(getattr(row, "_num_tokens", 0) for row in made))


def _settle(context: Context, console: Console, *, redo: bool) -> None:
    """Refuses or discards rows of other settings, then writes the configuration and the environment."""
    store, directory = RunStore(context.directory), context.directory
    wanted = fingerprints(context.config, directory)
    stale = [stage for stage in STAGES if store.fingerprint(stage.name) not in (None, wanted[stage.name])]
    if stale and not redo:
        changed = ", ".join(_changed_keys(context))
        changed = changed or "the content of a file that they name, or a review, has changed"
        raise ValueError(
            f"{directory} was made with other settings ({changed}), so these stages do not match: "
            f"{', '.join(stage.name for stage in stale)}. Choose another --out, or discard them with --redo"
        )
    # The last stage first, so that after a kill the remaining stages still have the rows they depend on.
    for stage in reversed(stale):
        console.print(f"{stage.name}: discarded, because its settings changed")
        discard_files(stage, directory)
        store.forget(stage.name)
    write_config(directory, context.config.model_dump(mode="json", exclude_none=True))
    _write_environment(directory / "environment.json")


def discard_files(stage: Stage, directory: Path) -> None:
    """Removes the files that a stage wrote in addition to its rows."""
    for path in (directory / name for name in stage.files):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _changed_keys(context: Context) -> list[str]:
    """Dotted keys that differ from the configuration in the run directory."""
    old, changed = read_config(context.directory), list[str]()
    for name, section in context.config.model_dump(mode="json").items():
        before, after = old.get(name) or {}, section or {}
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        changed += [f"{name}.{key}" for key in keys]
    return changed


def _write_environment(path: Path) -> None:
    """Writes the environment in which the run was started; later, other ones are added under `resumed`."""
    packages = ("torch", "transformers", "peft", "accelerate", "av", "scenedetect-headless", "numpy")
    now: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "num_cores": count_workers(0),
        "versions": versions() | {name: version(name) for name in packages},
    }
    first = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    resumed = first.pop("resumed", [])
    resumed += [now] if now != [first, *resumed][-1] else []
    write_json(path, {**first, "resumed": resumed} if resumed else first)


def _report_changes(context: Context, console: Console) -> None:
    """Prints which stages were made with other package versions, and how many new videos are not used."""
    store, now = RunStore(context.directory), versions()
    others = {stage.name: store.versions(stage.name) for stage in STAGES}
    if changed := [name for name, made in others.items() if made and made != now]:
        before, after = (" and ".join(f"{k} {v}" for k, v in x.items()) for x in (others[changed[0]], now))
        console.print(f"made with {before}: {', '.join(changed)}; this run continues with {after}")
    # The folders may be empty by now, and the remaining stages may not need the videos.
    with contextlib.suppress(ValueError):
        if context.config.videos.paths and store.is_done("videos") and (new := steps.new_files(context)):
            console.print(
                f"videos: {len(new)} new files in videos.paths are not part of this run (such as {new[0]}). "
                "To use them, start a new run with another --out"
            )


def take_over(source: Path, context: Context, stages: Sequence[Stage], console: Console) -> None:
    """Copies those of the `stages` that the run in `source` made with the same settings; prints their names.

    Stops at the first stage that does not match. Stages that are already finished are left unchanged. Reviews
    are copied before the pairs are made.
    """
    old, new = RunStore(source), RunStore(context.directory)
    if old.path(REVIEWS).exists() and not (new.path(REVIEWS).exists() or new.fingerprint("pairs")):
        # Not linked: later reviews of either run are appended.
        write_text(new.path(REVIEWS), old.path(REVIEWS).read_text(encoding="utf-8"))
    wanted, taken = fingerprints(context.config, context.directory), []
    for stage in stages:
        name = stage.name
        if not (stage.is_shared and old.is_done(name) and old.fingerprint(name) == wanted[name]):
            break
        if not new.is_done(name):
            _copy_stage(stage, old, new)
            taken.append(name)
    names = ", ".join(taken) or "nothing, because no stage has the same settings"
    console.print(f"reused from {source}: {names}")


def _copy_stage(stage: Stage, old: RunStore, new: RunStore) -> None:
    name, fingerprint = stage.name, old.fingerprint(stage.name) or ""
    # Paths of videos that the old run rendered.
    before, after = (
        json.dumps(f"{store.directory / 'synthetic'}/", ensure_ascii=False)[1:-1] for store in (old, new)
    )
    new.forget(name)
    new.begin(name, fingerprint, old.versions(name))
    for path in (old.directory / file for file in (f"{name}.jsonl", *stage.files)):
        target = new.directory / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=_link, dirs_exist_ok=True)
        elif path.exists():
            write_text(target, path.read_text(encoding="utf-8").replace(before, after))
    skipped = (row.model_dump_json() for row in old.read(SKIPPED, Skipped) if row.stage == name)
    append_jsonl(new.path(SKIPPED), (line.replace(before, after) for line in skipped))
    new.finish(name, fingerprint, old.versions(name))


def _link(source: str | Path, target: str | Path) -> None:
    """Makes a hard link, or else a copy. Links are safe: a run replaces files and never edits them."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
