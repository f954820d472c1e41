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

from tempo import engine, run_files, steps
from tempo.config import IMPORTED_STAGES, Config
from tempo.processes import call_to_training, process_rank
from tempo.records import Clips, Perturbations, Record, Video
from tempo.stage import Context
from tempo.store import RunStore


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

#: Stages that load the model.
MODEL_STAGES = ("captions", "responses", "audit", "training", "evaluation")

#: Stages that ask the server of an [endpoint] section, where there is one.
ENDPOINT_STAGES = ("captions", "responses")

NAMES = tuple(stage.name for stage in STAGES)


def fingerprints(config: Config) -> dict[str, str]:
    """What each stage's rows depend on, as one hash: its own sections, the seed, every stage before it."""
    chained = str(config.run.seed)
    result = {}
    for stage in STAGES:
        parts = {key: _plain(config, key) for key in stage.sections}
        text = json.dumps([chained, stage.name, parts], sort_keys=True)
        result[stage.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        chained = chained if stage.aside else result[stage.name]
    return result


def stale_stages(config: Config, store: RunStore) -> list[str]:
    """Stages that were begun under another configuration, in order."""
    wanted = fingerprints(config)
    return [name for name in NAMES if store.fingerprint(name) not in (None, wanted[name])]


def run_stages(
    context: Context, console: Console, *, until: str = "", only: str = "", redo: bool = False
) -> None:
    """Runs every stage that is not done, in order, or `only` one of them.

    Of several processes the first does so; the others join the training. Raises ValueError if the directory
    holds rows of another configuration, unless `redo` discards them.
    """
    if process_rank() > 0:
        steps.join_training(context)
        return
    selected = _selected(context.config, until=until, only=only)
    uses_model = any(stage.name in MODEL_STAGES for stage in selected)
    uses_endpoint = any(stage.name in ENDPOINT_STAGES for stage in selected)
    steps.check_inputs(context.config, with_model=uses_model, with_endpoint=uses_endpoint)
    store = RunStore(context.directory)
    with store.lock(), engine.session(context.config.run):
        _settle_config(context, store, console, redo=redo)
        wanted = fingerprints(context.config)
        for stage in selected:
            if store.is_done(stage.name):
                continue
            _require_before(stage.name, context.config, store)
            store.begin(stage.name, wanted[stage.name])
            stage.run(context, store, console)
            store.finish(stage.name, wanted[stage.name])
    call_to_training(context.config.model.device, is_wanted=False)


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


def _settle_config(context: Context, store: RunStore, console: Console, *, redo: bool) -> None:
    """Refuses or discards rows of another configuration, then writes down this one."""
    stale = stale_stages(context.config, store)
    if stale and not redo:
        changed = ", ".join(_changed_keys(context)) or "the seed"
        raise ValueError(
            f"{context.directory} was made with another config ({changed}), so these stages would not match: "
            f"{', '.join(stale)}. Choose another --out, or add --redo to make them again"
        )
    for name in stale:
        console.print(f"{name}: discarded, the config changed")
        # Files first: a kill in between leaves the stage stale, and its files are removed again.
        run_files.discard_files(name, context.directory)
        store.forget(name)
    run_files.write_config(context)


def _changed_keys(context: Context) -> list[str]:
    """Dotted keys that differ from the configuration written down in the run directory."""
    old, new = run_files.read_config(context.directory), context.config.model_dump(mode="json")
    return [
        f"{section}.{key}"
        for section in new
        for key in sorted({*(old.get(section) or {}), *(new[section] or {})})
        if (old.get(section) or {}).get(key) != (new[section] or {}).get(key)
    ]


def _plain(config: Config, key: str) -> Any:
    """A section, or one value of it (`section.key`), as plain data."""
    section, _, name = key.partition(".")
    value = getattr(config, section)
    if name:
        return getattr(value, name, None)
    # A run may go on on another device. With dtype "auto" that changes the precision of what is left.
    return None if value is None else value.model_dump(mode="json", exclude={"device"})


def run_directory_error(directory: Path) -> str | None:
    """Why a directory is no run, None if it is one."""
    if not directory.exists():
        return f"{directory} does not exist"
    if not (directory / "config.toml").exists():
        return f"{directory} is no run of tempo: it has no config.toml"
    return None
