"""Rounds: the model as trained so far makes the pairs that it is trained on next (`run.rounds`).

The last round is the run itself. Each one before it is a run directory inside it, `rounds/1` and so on, in
which everything up to the clips is a link to the run's. From the second round on, `start` is a link to the
model that the round before left. So a round has rows, drops and markers of its own, and what reads them knows
of no rounds.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempo.config import Config
from tempo.engine.types import Context

#: Stages that every round does; those before are done once, those after in the last round.
ROUND_STAGES = ("captions", "perturbations", "responses", "pairs", "training")

SHARED_STAGES = ("synthetic", "videos", "shots", "clips")

#: What an earlier round has from its run.
SHARED = (
    *("synthetic", "frames"),
    *(f"{stage}.jsonl" for stage in SHARED_STAGES),
    *(f"done/{stage}.json" for stage in SHARED_STAGES),
)

START = "start"


def config_before(config: Config) -> Config:
    """What the round before is: one round less, the phases up to the last DPO phase, no baseline."""
    training = config.training
    num_phases = 1 + max(i for i, phase in enumerate(training.phases) if phase.objective == "dpo")
    phases = training.phases[:num_phases]
    is_asked = any(phase.objective == "sft" for phase in phases)
    fewer: dict[str, Any] = {
        "phases": phases,
        "baselines": {},
        "instructions": training.instructions if is_asked else "",
        "max_instructions": training.max_instructions if is_asked else None,
    }
    run = config.run.model_copy(update={"rounds": config.run.rounds - 1})
    return config.model_copy(update={"run": run, "training": training.model_copy(update=fewer)})


def earlier_rounds(context: Context) -> list[Context]:
    """The rounds of a run before its last, in order; `run.rounds` of each is its number."""
    rounds: list[Context] = []
    config = context.config
    while config.run.rounds > 1:
        config = config_before(config)
        rounds.insert(0, replace(context, config=config, directory=_place(context.directory, config)))
    return rounds


def round_of(context: Context, number: int) -> Context:
    """The round of a run with this number; the last is the run itself."""
    return next(c for c in (context, *earlier_rounds(context)) if c.config.run.rounds == number)


def open_round(context: Context, run: Context) -> None:
    """Makes the links of a round of `run`: the model that it begins with, and what it has from the run."""
    if context.config.run.rounds > 1:
        _link(context.directory / START, _place(run.directory, config_before(context.config)) / "model")
    if context.directory == run.directory:
        return
    for name in SHARED:
        if (run.directory / name).exists():
            _link(context.directory / name, run.directory / name)


def from_start(context: Context) -> Context:
    """The same with the model that the round begins with in the place of `model.path`."""
    config = context.config
    if config.run.rounds == 1:
        return context
    model = config.model.model_copy(update={"path": str(context.directory / START)})
    return replace(context, config=config.model_copy(update={"model": model}))


def round_directories(directory: Path) -> list[Path]:
    """Where the earlier rounds of the run in `directory` lie, in order."""
    found = [path for path in (directory / "rounds").glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def surplus_rounds(context: Context) -> list[Path]:
    """Directories of rounds that another configuration had and this one has not."""
    wanted = [earlier.directory for earlier in earlier_rounds(context)]
    return [path for path in round_directories(context.directory) if path not in wanted]


def _place(directory: Path, config: Config) -> Path:
    return directory / "rounds" / str(config.run.rounds)


def _link(link: Path, target: Path) -> None:
    """A relative link, so that a run can be moved."""
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))
