"""Running stages: what is done is kept, and rows of another configuration are refused or discarded."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tempo.config import Config
from tempo.core.files import write_json, write_lines, write_text
from tempo.core.progress import Counter
from tempo.core.records import Frozen, Record, Skipped
from tempo.core.store import SKIPPED, RunStore, read_config, run_directory_error, write_config
from tempo.engine import pool as engine
from tempo.engine.ranks import call_to_training, process_rank
from tempo.engine.types import Context, count_workers
from tempo.pipeline import preflight, steps
from tempo.pipeline.fingerprints import fingerprints, package_version, stale_stages, versions
from tempo.pipeline.stages import STAGES, Stage, select_stages

#: Videos in one worker call outside a pool: a model generates their answers in batches.
BATCH_VIDEOS = 8

#: Packages that results depend on, for environment.json.
PACKAGES = ("tempo-dpo", "torch", "transformers", "peft", "accelerate", "av", "scenedetect", "numpy")


@dataclass(frozen=True)
class RunResult:
    """What a run directory holds after a run."""

    directory: Path
    #: The names of the stages that are done, in order.
    stages: tuple[str, ...]
    #: The path of report.html, None before that stage.
    report: Path | None
    #: The `EvaluationReport` of each model by its name, in the order of the table; empty before that stage.
    evaluation: dict[str, Frozen]


def run(
    config: Config,
    directory: str | Path,
    *,
    until: str = "",
    from_run: str | Path | None = None,
    redo: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Runs every stage that is not done yet in `directory`, from videos to the report.

    `until` is the last stage to run. `from_run` is the directory of another run: what it made under the same
    settings is taken over. `redo` discards stages that were made with other settings. `console` shows the
    progress; without it nothing is printed. Raises ValueError, before any work wherever possible, for a bad
    value, a missing file, and a directory that was made with another configuration.
    """
    context = Context(config, Path(directory))
    source = Path(from_run) if from_run else None
    run_stages(context, console or Console(quiet=True), until=until, source=source, redo=redo)
    store, report = RunStore(context.directory), context.directory / "report.html"
    done = tuple(stage.name for stage in STAGES if store.is_done(stage.name))
    evaluation = _read_evaluation(context.directory / "evaluation.json")
    return RunResult(context.directory, done, report if report.exists() else None, evaluation)


def _read_evaluation(path: Path) -> dict[str, Frozen]:
    if not path.exists():
        return {}
    from tempo.evaluation.benchmark import EvaluationReport

    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {name: EvaluationReport.model_validate(report) for name, report in models.items()}


def run_stages(
    context: Context,
    console: Console,
    *,
    until: str = "",
    only: str = "",
    source: Path | None = None,
    redo: bool = False,
) -> None:
    """Runs the selected stages that are not done (`run`), or `only` one.

    Of several processes the first runs the stages, and the others join the training.
    """
    if process_rank() > 0:
        steps.join_training(context)
        return
    config, store = context.config, RunStore(context.directory)
    if source and (error := run_directory_error(source)):
        raise ValueError(f"--from: {error}")
    selected = select_stages(config, until=until, only=only)
    _check(config, selected, store)
    with store.lock():
        _settle(context, console, redo=redo)
        if source:
            console.print(take_over(source, context, selected))
        _report_changes(context, console, only=only)
        for stage in selected:
            if not store.is_done(stage.name):
                _run_stage(stage, context, console)
    call_to_training(config.model.device, is_needed=False)


def _check(config: Config, selected: Iterable[Stage], store: RunStore) -> None:
    """Raises ValueError for what the selected stages that are not done will miss."""
    engine.check_engine(config.run)
    preflight.check_paths(config, [key for stage in STAGES for key in stage.input_files])
    wanted = fingerprints(config)
    done = {name for name in wanted if store.is_done(name) and store.fingerprint(name) == wanted[name]}
    left = [stage for stage in selected if stage.name not in done]
    for stage in left:
        stage.check(config)
    if any(stage.needs_model(config) for stage in left):
        preflight.check_model(config)


def _run_stage(stage: Stage, context: Context, console: Console) -> None:
    """Runs a stage after those before it; its marker is written last."""
    store, fingerprint = RunStore(context.directory), fingerprints(context.config)[stage.name]
    for before in STAGES[: STAGES.index(stage)]:
        if not (before.is_auxiliary or before.idle(context.config) or store.is_done(before.name)):
            raise ValueError(
                f"stage {stage.name!r} needs {before.name!r} first; `tempo run` does all in order"
            )
    stage.check_before(context)
    store.begin(stage.name, fingerprint, versions())
    if stage.function:
        stage.function(context, console)
    else:
        map_stage(stage, context, console)
    store.finish(stage.name, fingerprint, versions())


def map_stage(stage: Stage, context: Context, console: Console) -> None:
    """Maps the rows that a stage reads through its worker, and writes each result when it is there."""
    config, store = context.config, RunStore(context.directory)
    idle = {other.name for other in STAGES if other.idle(config)}
    reads, record = next(source for source in stage.reads if source[0] not in idle)
    rows, handled = store.read(reads, record), store.handled_ids(stage.name)
    place = stage.place(config)
    size = 1 if place == "pool" else _batch_size(config)
    # Batches are cut before handled records are left out: a resumed batch holds the same records as the first
    # time, so the model computes the same numbers.
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    left = [batch for batch in batches if any(row.id not in handled for row in batch)]
    counter = Counter(console, stage.name, len(rows), done=len(rows) - sum(map(len, left)))
    with counter.live():
        for result in engine.map_batches(stage.worker, context, left, place=place, stage=stage.name):
            _write([row for row in result if row.id not in handled], stage, store)
            counter.advance(len(result))


def _batch_size(config: Config) -> int:
    """Videos in one worker call; a server gets enough of them to be busy, at two requests or more each."""
    return max(BATCH_VIDEOS, config.endpoint.concurrency // 2 if config.endpoint else 0)


def _write(result: Sequence[Record], stage: Stage, store: RunStore) -> None:
    """Appends the rows of a result to the stage's file, and skipped records to theirs."""
    skipped = [row for row in result if isinstance(row, Skipped)]
    if wrong := {row.stage for row in skipped} - {stage.name}:
        raise ValueError(f"stage {stage.name!r} has skipped records of another stage: {sorted(wrong)}")
    store.append(stage.name, [row for row in result if not isinstance(row, Skipped)])
    store.append(SKIPPED, skipped)


def _settle(context: Context, console: Console, *, redo: bool) -> None:
    """Refuses or discards rows of another configuration, then writes this one and the environment."""
    store, directory = RunStore(context.directory), context.directory
    stale = stale_stages(context.config, store)
    if stale and not redo:
        changed = ", ".join(_changed_keys(context)) or "a file that it names has another content"
        raise ValueError(
            f"{directory} was made with another config ({changed}), so these stages would not match: "
            f"{', '.join(stale)}. Choose another --out, or add --redo to make them again"
        )
    # The last stage first: after a kill, what is left depends on rows that are still there.
    for stage in reversed([stage for stage in STAGES if stage.name in stale]):
        console.print(f"{stage.name}: discarded, the config changed")
        discard_files(stage, directory)
        store.forget(stage.name)
    write_config(directory, context.config.model_dump(mode="json", exclude_none=True))
    _write_environment(directory / "environment.json")


def discard_files(stage: Stage, directory: Path) -> None:
    """Removes what a stage wrote beside its rows."""
    for name in stage.files:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _changed_keys(context: Context) -> list[str]:
    """Dotted keys that differ from the configuration in the run directory."""
    old, new = read_config(context.directory), context.config.model_dump(mode="json")
    return [
        f"{section}.{key}"
        for section in new
        for key in sorted({*(old.get(section) or {}), *(new[section] or {})})
        if (old.get(section) or {}).get(key) != (new[section] or {}).get(key)
    ]


def _write_environment(path: Path) -> None:
    """Writes where the run was started; a later start elsewhere is added under `resumed`."""
    now = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "num_cores": count_workers(0),
        "versions": {name: package_version(name) for name in PACKAGES},
    }
    if not path.exists():
        write_json(path, now)
        return
    first = json.loads(path.read_text(encoding="utf-8"))
    resumed = first.pop("resumed", [])
    if now != [first, *resumed][-1]:
        write_json(path, {**first, "resumed": [*resumed, now]})


def _report_changes(context: Context, console: Console, *, only: str) -> None:
    """Prints which finished stages another version of tempo made, and how many new videos are left out."""
    store, now = RunStore(context.directory), versions()
    others = {stage.name: store.versions(stage.name) for stage in STAGES}
    if changed := [name for name, version in others.items() if version and version != now]:
        before, after = (" and ".join(f"{k} {v}" for k, v in x.items()) for x in (others[changed[0]], now))
        console.print(f"made with {before}: {', '.join(changed)}; this run goes on with {after}")
    if only or not context.config.videos.paths or not store.is_done("videos"):
        return
    try:
        new = steps.new_files(context)
    except ValueError:
        # The folders are empty by now; the stages that are left may need no video.
        return
    if new:
        console.print(
            f"videos: {len(new)} new files in videos.paths are not part of this run (such as {new[0]}); give "
            "another --out for a run with them"
        )


def take_over(source: Path, context: Context, stages: Sequence[Stage]) -> str:
    """Copies those of the `stages` that the run in `source` made under the same settings.

    It ends at the first stage that does not match. Stages that are done already stay as they are. Files
    beside the rows become hard links where possible. Returns one line about what was taken over.
    """
    old, new = RunStore(source), RunStore(context.directory)
    wanted, taken = fingerprints(context.config), []
    for stage in stages:
        name = stage.name
        if not (stage.is_shared and old.is_done(name) and old.fingerprint(name) == wanted[name]):
            break
        if not new.is_done(name):
            _copy_stage(stage, old, new, wanted[name])
            taken.append(name)
    return f"taken over from {source}: {', '.join(taken) or 'nothing, no stage has the same settings'}"


def _copy_stage(stage: Stage, old: RunStore, new: RunStore, fingerprint: str) -> None:
    name = stage.name
    new.begin(name, fingerprint, old.versions(name))
    for file in stage.files:
        _link(old.directory / file, new.directory / file)
    if old.path(name).exists():
        write_text(new.path(name), _move_paths(old.path(name).read_text(encoding="utf-8"), old, new))
    kept = [row for row in new.read(SKIPPED, Skipped) if row.stage != name]
    skipped = [row for row in old.read(SKIPPED, Skipped) if row.stage == name]
    if kept or skipped:
        lines = [_move_paths(row.model_dump_json(), old, new) for row in skipped]
        write_lines(new.path(SKIPPED), [*(row.model_dump_json() for row in kept), *lines])
    new.finish(name, fingerprint, old.versions(name))


def _move_paths(text: str, old: RunStore, new: RunStore) -> str:
    """The text with paths in the `synthetic` folder of the old run replaced by those of the new run."""
    before, after = (
        json.dumps(f"{store.directory / 'synthetic'}/", ensure_ascii=False)[1:-1] for store in (old, new)
    )
    return text.replace(before, after)


def _link(source: Path, target: Path) -> None:
    """Links a file or a folder of files, or copies where the file system has no hard links.

    Links are safe because files of a run are replaced, never changed in place.
    """
    if source.is_dir():
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            _link(path, target / path.name)
    elif source.exists():
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
