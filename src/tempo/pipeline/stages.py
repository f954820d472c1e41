"""The ordered table of stages: the table of contents of the project.

Each stage is a noun, a module, a record type and a JSONL file. Modules are named, not imported: `tempo
--help` needs none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo.config import Config
from tempo.core.records import Clips, Perturbations, Record, Video
from tempo.core.store import RunStore, run_directory_error
from tempo.engine import pool as engine
from tempo.engine.ranks import call_to_training, process_rank
from tempo.engine.types import Context
from tempo.pipeline import run_files, steps
from tempo.pipeline.fingerprints import content_hashes
from tempo.pipeline.preflight import check_inputs
from tempo.pipeline.take_over import take_over


@dataclass(frozen=True)
class Stage:
    """One stage: what it says of itself, the configuration it depends on, and how it is run.

    A stage `aside` looks at a run and changes no row of it: no stage needs it, only those that name the same
    section become stale with it, and its subcommand takes the directory of a run.
    """

    name: str
    says: str
    sections: tuple[str, ...]
    run: Callable[[Context, RunStore, Console], None]
    aside: bool = False


def _mapped(worker: str, reads: str, reads_record: type[Record]) -> Any:
    return steps.MapStep(worker, reads, reads_record, "pool")


#: What answers depend on where a server draws them: not on where it is, nor on how patiently it is asked.
SERVED = ("endpoint.model", "endpoint.server")

STAGES: tuple[Stage, ...] = (
    Stage("synthetic", "render the embedded world (only with a [synthetic] section)", ("synthetic",),
          steps.run_synthetic),
    Stage("videos", "find video files and identify them by content", ("videos",), steps.run_videos),
    Stage("shots", "cut videos into shots; fill the frame store", ("shots", "frames"),
          _mapped("tempo.video.shots:make_worker", "videos", Video)),
    Stage("clips", "group shots into clips, keep temporally rich videos", ("clips", "frames"),
          steps.run_clips),
    Stage("captions", "let the model caption every clip", ("model", *SERVED, "captions"),
          steps.answered("tempo.preference.captions:make_worker", "clips", Clips)),
    Stage("perturbations", "choose what to drop, shuffle and reverse",
          ("perturbations", "responses.input_form"), steps.run_perturbations),
    Stage("responses", "let the model answer, clean and perturbed", (*SERVED, "responses"),
          steps.answered("tempo.preference.responses:make_worker", "perturbations", Perturbations)),
    Stage("pairs", "pair chosen with rejected answers, filter", ("pairs",), steps.run_pairs),
    Stage("audit", "ask how well the pairs can be told apart without the video", ("audit",),
          steps.run_audit, aside=True),
    Stage("training", "train the phases in order", ("training",), steps.run_training),
    Stage("evaluation", "ask every model the benchmark", ("evaluation",), steps.run_evaluation),
    Stage("report", "write report.html", ("report", "audit"), steps.run_report),
)  # fmt: skip

#: Stages that `pairs.import_from` replaces.
IMPORTED_STAGES = ("clips", "captions", "perturbations", "responses")

#: Stages that load the model.
MODEL_STAGES = ("captions", "responses", "audit", "training", "evaluation")

#: Keys of sections that change no result: where it is computed, what a stop costs, how long a hang is borne.
#: A run may go on on another device; with dtype "auto" that changes the precision of what is left.
CHANGE_NOTHING = {"device", "checkpoint_minutes", "timeout_seconds"}

NAMES = tuple(stage.name for stage in STAGES)


def fingerprints(config: Config) -> dict[str, str]:
    """What each stage's rows depend on, as one hash: its sections and files, the seed, stages before it."""
    chained = str(config.run.seed)
    result = {}
    for stage in STAGES:
        parts = {key: _plain(config, key) for key in stage.sections} | content_hashes(config, stage.name)
        text = json.dumps([chained, stage.name, parts], sort_keys=True)
        result[stage.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        chained = chained if stage.aside else result[stage.name]
    return result


def stale_stages(config: Config, store: RunStore) -> list[str]:
    """Stages that were begun under another configuration, in order."""
    wanted = fingerprints(config)
    return [name for name in NAMES if store.fingerprint(name) not in (None, wanted[name])]


def run_stages(
    context: Context,
    console: Console,
    *,
    until: str = "",
    only: str = "",
    source: Path | None = None,
    redo: bool = False,
) -> None:
    """Runs every stage that is not done, in order, or `only` one of them.

    What the run in `source` made under the same settings is taken over first. Of several processes the first
    runs the stages; the others join the training. Raises ValueError if the directory holds rows of another
    configuration, unless `redo` discards them.
    """
    if process_rank() > 0:
        steps.join_training(context)
        return
    if source and (error := run_directory_error(source)):
        raise ValueError(f"--from: {error}")
    selected = _selected(context.config, until=until, only=only)
    uses_model = any(stage.name in MODEL_STAGES for stage in selected) or _has_used_model(context)
    check_inputs(context.config, _left(selected, context), with_model=uses_model)
    with RunStore(context.directory).lock(), engine.session(context.config.run):
        stale = stale_stages(context.config, RunStore(context.directory))
        run_files.settle_config(context, stale, console, redo=redo)
        if source:
            names = [stage.name for stage in selected]
            console.print(take_over(source, context, names, fingerprints(context.config)))
        if not only:
            steps.tell_new_files(context, console)
        _do(selected, context, console)
    call_to_training(context.config.model.device, is_needed=False)


def _left(stages: Sequence[Stage], context: Context) -> list[str]:
    """Names of those of the stages that are not done under this configuration."""
    store, wanted = RunStore(context.directory), fingerprints(context.config)
    done = {name for name in NAMES if store.is_done(name) and store.fingerprint(name) == wanted[name]}
    return [stage.name for stage in stages if stage.name not in done]


def _has_used_model(context: Context) -> bool:
    """Whether there are rows that the model made: without it they could not be told from another's."""
    store = RunStore(context.directory)
    return any(store.fingerprint(name) is not None for name in MODEL_STAGES)


def _do(stages: Sequence[Stage], context: Context, console: Console) -> None:
    """Runs those of the stages that are not done."""
    store, wanted = RunStore(context.directory), fingerprints(context.config)
    for stage in stages:
        if store.is_done(stage.name):
            continue
        _require_before(stage.name, context.config, store)
        store.begin(stage.name, wanted[stage.name])
        stage.run(context, store, console)
        store.finish(stage.name, wanted[stage.name])


def _selected(config: Config, *, until: str, only: str) -> Sequence[Stage]:
    for asked in (until, only):
        if asked and asked not in NAMES:
            raise ValueError(f"there is no stage {asked!r}; the stages are {', '.join(NAMES)}")
    last = NAMES.index(until) if until else len(NAMES) - 1
    idle = idle_stages(config)
    if only in idle:
        raise ValueError(f"stage {only!r} would do nothing: {idle[only]}")
    chosen = [s for s in STAGES[: last + 1] if s.name not in idle]
    return [stage for stage in chosen if stage.name == only] if only else chosen


def idle_stages(config: Config) -> dict[str, str]:
    """Stages that a configuration has no use for, and why."""
    idle = {}
    if config.synthetic is None:
        idle["synthetic"] = "the config has no [synthetic] section"
    if config.responses.input_form != "captions":
        idle["captions"] = f"responses.input_form is {config.responses.input_form!r}"
    if config.pairs.import_from:
        idle |= dict.fromkeys(IMPORTED_STAGES, "the pairs come from pairs.import_from")
    return idle


def _require_before(name: str, config: Config, store: RunStore) -> None:
    idle = idle_stages(config)
    before = [s.name for s in STAGES[: NAMES.index(name)] if s.name not in idle and not s.aside]
    if missing := [stage for stage in before if not store.is_done(stage)]:
        raise ValueError(f"stage {name!r} needs {missing[0]!r} first; `tempo run` does all in order")


def _plain(config: Config, key: str) -> Any:
    """A section, or one value of it (`section.key`), as plain data."""
    section, _, name = key.partition(".")
    value = getattr(config, section)
    if name:
        return getattr(value, name, None)
    return None if value is None else value.model_dump(mode="json", exclude=CHANGE_NOTHING)
