"""The configuration of a study: a run to start from, a library of phases, and rows that put them together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tempo.config import PhaseConfig
from tempo.config.load import Config, parse_config
from tempo.config.running import Section
from tempo.core.files import describe_error

#: Sections that rows may differ in. Frames, clips and the rest are what all rows are measured on.
ROW_SECTIONS = ("captions", "perturbations", "responses", "pairs")

#: What else a row may set: it changes instructions, and no video.
ROW_KEYS = ("synthetic.order_fidelity",)

#: A row whose pairs are made of the world's own scripts: what perfect captions would come to.
TRUTH = "truth"


class RowConfig(Section):
    """One row of the study: a list of phases, and in what it differs from the run that all start from.

    `start` names a row whose model it begins with. `pairs_by` says who makes its pairs: a row, a checkpoint,
    `truth` (the scripts of the embedded world), or by default the row's own `model`. `dpo` and `sft` override
    keys of the phases of that objective, `data` those of the run (`section.key`, of `ROW_SECTIONS`). A
    `blind` row is asked the benchmark without seeing the videos. `num_seeds` takes only the first of the
    seeds; 0 takes all.
    """

    says: str
    phases: tuple[str, ...] = ()
    model: str = ""
    start: str = ""
    pairs_by: str = ""
    dpo: dict[str, Any] = Field({})
    sft: dict[str, Any] = Field({})
    data: dict[str, Any] = Field({})
    blind: bool = False
    num_seeds: int = Field(0, ge=0)

    def has_seed(self, number: int) -> bool:
        """Whether the row is done with seed number `number` of the study."""
        return not self.num_seeds or number < self.num_seeds


class StudyConfig(Section):
    """A whole study. `num_workers = 0`: one process per core, or a single one on a GPU.

    `dpo` and `sft` override keys of all phases of that objective; those of a row go over them. A file may say
    `extends = "FILE"`, another study: what it says itself goes over that, key by key.
    """

    base: str = Field(description="TOML of a run of the embedded world, relative to the study's file")
    seeds: tuple[int, ...] = Field(min_length=1)
    num_workers: int = Field(0, ge=0)
    probe_videos: int = Field(12, ge=1, description="held-out videos of pairs that the probe looks at")
    set: dict[str, Any] = Field({}, description="values of the run, `section.key`, for all rows")
    dpo: dict[str, Any] = Field({})
    sft: dict[str, Any] = Field({})
    phases: tuple[PhaseConfig, ...]
    rows: dict[str, RowConfig]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different, got {list(self.seeds)}")
        known = {phase.name for phase in self.phases}
        earlier: set[str] = set()
        for name, row in self.rows.items():
            if unknown := [phase for phase in row.phases if phase not in known]:
                raise ValueError(f"rows.{name}: unknown phases {unknown}; there are {sorted(known)}")
            if row.start and row.start not in earlier:
                raise ValueError(f"rows.{name}.start: {row.start!r} is no row above it")
            if row.pairs_by in self.rows and row.pairs_by not in earlier:
                raise ValueError(f"rows.{name}.pairs_by: row {row.pairs_by!r} must stand above it")
            if row.start and row.model:
                raise ValueError(f"rows.{name}.model would do nothing: it starts with {row.start!r}'s model")
            for other in (row.start, row.pairs_by):
                if other in earlier and not self.rows[other].has_seed((row.num_seeds or len(self.seeds)) - 1):
                    raise ValueError(f"rows.{name} needs {other!r}, which has fewer seeds (num_seeds)")
            _refuse_idle(name, row, {phase.name: phase for phase in self.phases})
            earlier.add(name)
        return self


def _refuse_idle(name: str, row: RowConfig, phases: Mapping[str, PhaseConfig]) -> None:
    objectives = {phases[phase].objective for phase in row.phases}
    for objective in ("dpo", "sft"):
        if getattr(row, objective) and objective not in objectives:
            raise ValueError(f"rows.{name}.{objective} would do nothing: the row has no such phase")
    for key in row.data:
        section = key.partition(".")[0]
        if section not in ROW_SECTIONS and key not in ROW_KEYS:
            allowed = ", ".join((*(f"{name}.*" for name in ROW_SECTIONS), *ROW_KEYS))
            raise ValueError(f"rows.{name}.data: {key} must be the same for all rows; they may set {allowed}")
        if ("dpo" if section in ROW_SECTIONS else "sft") not in objectives:
            raise ValueError(f"rows.{name}.data: {key} would do nothing: the row has no phase that reads it")
    if row.pairs_by and "dpo" not in objectives:
        raise ValueError(f"rows.{name}.pairs_by would do nothing: the row trains on no pairs")


def load_study(path: Path) -> tuple[StudyConfig, dict[str, Any]]:
    """The checked study of a TOML file, and the plain data of its base run with `set` applied.

    Raises ValueError that names every offending key and shows its value.
    """
    try:
        study = StudyConfig.model_validate(_read(path))
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item, StudyConfig) for item in error.errors())) from None
    base = Path(study.base)
    try:
        plain = tomllib.loads(base.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"base: {base} cannot be read: {error}") from None
    for key in ("phases", "baselines", "instructions", "max_instructions"):
        plain.get("training", {}).pop(key, None)
    return study, apply_values(plain, study.set, key="set")


def _read(path: Path, *extending: Path) -> dict[str, Any]:
    """What a file says over what those say that it extends; `base` is relative to the file that names it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"study {path} does not exist; configs/study.toml is one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"study {path} cannot be read as TOML: {error}") from None
    if isinstance(data.get("base"), str):
        data["base"] = str(path.parent / data["base"])
    if "extends" not in data:
        return data
    other = path.parent / str(data.pop("extends"))
    if other.resolve() in (known := [*extending, path.resolve()]):
        raise ValueError(f"extends: {path} and {other} extend each other")
    return _put_over(_read(other, *known), data)


def _put_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _put_over(below[k], v) for k, v in above.items() if _are_tables(below.get(k), v)}
    return {**below, **above, **both}


def _are_tables(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def select(study: StudyConfig, *, rows: Sequence[str], seeds: Sequence[int]) -> StudyConfig:
    """The study with only these rows (and those that they start with or take pairs of) and these seeds.

    Empty means all. Raises ValueError for a row that it lacks.
    """
    if unknown := [row for row in rows if row not in study.rows]:
        raise ValueError(f"--rows {unknown[0]!r} is no row of the study; it has {', '.join(study.rows)}")
    needed = set(rows or study.rows)
    for name in reversed(list(study.rows)):
        row = study.rows[name]
        if name in needed:
            needed |= {other for other in (row.start, row.pairs_by) if other in study.rows}
    kept = {name: row for name, row in study.rows.items() if name in needed}
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds: they must be different, got {list(seeds)}")
    return study.model_copy(update={"rows": kept, "seeds": tuple(seeds) or study.seeds})


def apply_values(plain: Mapping[str, Any], values: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """Plain data of a run with `section.key` values put in; raises ValueError for any other form."""
    made = {name: dict(section) if isinstance(section, dict) else section for name, section in plain.items()}
    for name, value in values.items():
        section, dot, inner = name.partition(".")
        if not dot or "." in inner:
            raise ValueError(f"{key}: {name!r} is not of the form section.key")
        made.setdefault(section, {})[inner] = value
    return made


def run_config(plain: Mapping[str, Any], row: RowConfig, *, seed: int, key: str) -> Config:
    """The configuration of the run that makes a row's pairs; raises ValueError that names the row."""
    values = {**row.data, "run.seed": seed, "run.num_workers": 1}
    try:
        config = parse_config(apply_values(plain, values, key=f"{key}.data"))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if config.synthetic is None:
        raise ValueError("base: a study needs a run of the embedded world, with a [synthetic] section")
    return config


def row_phases(study: StudyConfig, name: str) -> tuple[PhaseConfig, ...]:
    """The phases of a row with its overrides; raises ValueError that names the row."""
    row = study.rows[name]
    library = {phase.name: phase for phase in study.phases}
    made = []
    for phase in (library[phase] for phase in row.phases):
        changes = study.dpo | row.dpo if phase.objective == "dpo" else study.sft | row.sft
        try:
            made.append(type(phase).model_validate(phase.model_dump(exclude_unset=True) | changes))
        except ValidationError as error:
            faults = "; ".join(describe_error(item, type(phase)) for item in error.errors())
            raise ValueError(f"rows.{name}.{phase.objective}: {faults}") from None
    return tuple(made)
