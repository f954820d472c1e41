"""The configuration of a study: a base run, training phases, rows that combine them, claims and tables."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tempo.config import PhaseConfig
from tempo.config.load import Config, override, parse_config
from tempo.config.running import Section
from tempo.core.files import describe_error

#: Sections in which rows may differ. All others must be equal, so that rows are measured in the same way.
ROW_SECTIONS = ("captions", "perturbations", "responses", "pairs")

#: Other keys that rows may set: they change the instructions but not the videos.
ROW_KEYS = ("synthetic.order_fidelity",)

#: Value of `pairs_from` for pairs made from the scripts of the embedded world: all captions are correct.
TRUTH = "truth"


class RowConfig(Section):
    """One row of the study: a run with a list of phases, and how it differs from the base run.

    It starts from the checkpoint `model` (by default that of the base run) or from the final model of the row
    `start`, which also generates its pairs. `pairs_from` imports pairs of another row instead, or `truth`. It
    has no pairs of a share of the videos, by default the study's `held_out_share`; SFT uses all videos. At a
    share `noise` of the videos and levels, the chosen answer and one of the rejected ones are swapped.
    `dpo` and `sft` override keys of its phases with that objective, `data` overrides keys of the run
    (`section.key`). A `blind` row answers the benchmark without seeing the videos. `num_seeds` uses only the
    first seeds of the study; 0 uses all. `baselines` overrides entries of the study's baselines.
    """

    description: str
    phases: tuple[str, ...] = ()
    model: str = ""
    start: str = ""
    pairs_from: str = ""
    held_out_share: float | None = Field(None, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, le=1)
    dpo: dict[str, Any] = Field({})
    sft: dict[str, Any] = Field({})
    data: dict[str, Any] = Field({})
    blind: bool = False
    num_seeds: int = Field(0, ge=0)
    baselines: dict[str, str] = Field({})

    def has_seed(self, number: int) -> bool:
        """Whether the row is run with the study's seed number `number`, counted from 0."""
        return not self.num_seeds or number < self.num_seeds


class ClaimConfig(Section):
    """A claim, and the comparison that decides it; configs/study.toml explains every key.

    Write claims before running the study: a comparison that is chosen after seeing results proves little.
    """

    name: str
    source: str
    text: str
    test: Literal["difference", "gain_kept", "near_zero", "rank_correlation"] = "difference"
    rows: tuple[tuple[str, ...], ...] = ()
    metric: str = "temporal"
    direction: Literal["higher", "lower"] = "higher"
    above: float = 0.0
    min_mean: float | None = None
    within: float = 0.0
    also: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        counts = {"difference": 2, "gain_kept": 3, "near_zero": 1}
        if (count := counts.get(self.test)) and (not self.rows or {count} != {len(n) for n in self.rows}):
            raise ValueError(f"claim {self.name!r}: test {self.test!r} needs lists of {count} rows each")
        return self


class QuestionConfig(Section):
    """A question of the map: two rows compared in temporal accuracy, under each of several conditions."""

    text: str
    conditions: dict[str, tuple[str, str]] = Field(min_length=1)


class TableConfig(Section):
    """A table of results: one line per row (all rows if `rows` is empty), or a table for each of `groups`.

    A column is a metric, `metric - ROW` (the difference from another row), or `metric / ROW - ROW` (which
    share of the gain of one row over another is kept). ROW is the label of a baseline or the name of a row.
    """

    rows: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = Field({})
    columns: tuple[Annotated[str, Field(pattern=r"^\w+(( / .+)? - .+)?$")], ...] = ("temporal", "win_rate")


class PlotConfig(Section):
    """A plot of results: bars over rows, metrics of all rows against the probe, the start of SFT, or the map.

    `labels` are shown instead of the names of `rows`. In a scatter plot only points of `rows` are labeled.
    """

    kind: Literal["bars", "scatter", "first_steps", "map"]
    rows: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


class StudyConfig(Section):
    """A whole study.

    `set` overrides values of the base run for all rows, `dpo` and `sft` keys of all phases with that
    objective; a row's own values override these. A file with `extends = "FILE"` starts from the values of
    another study. `baselines` gives labels to rows that others are compared with; `colors` are matplotlib's.
    """

    base: str = Field(description="TOML of a run of the embedded world, relative to the study's file")
    seeds: tuple[int, ...] = Field(min_length=1)
    held_out_share: float = Field(0.0, ge=0, lt=1, description="share of videos without pairs, for the probe")
    probe_videos: int = Field(12, ge=1, description="number of held-out videos that the probe uses")
    set: dict[str, Any] = Field({}, description="values of the run, `section.key`, for all rows")
    dpo: dict[str, Any] = Field({})
    sft: dict[str, Any] = Field({})
    phases: tuple[PhaseConfig, ...]
    rows: dict[str, RowConfig]
    claims: tuple[ClaimConfig, ...] = ()
    map: tuple[QuestionConfig, ...] = ()
    baselines: dict[str, str] = Field({})
    tables: dict[str, TableConfig] = Field({"main": TableConfig()})
    plots: dict[str, PlotConfig] = Field({})
    colors: dict[str, str] = Field({})

    @property
    def map_confidence(self) -> float:
        """The confidence of the map's deciding intervals: 95 % for all comparisons together (Bonferroni)."""
        return 1 - 0.05 / max(1, sum(len(question.conditions) for question in self.map))

    def share_of(self, row: str) -> float:
        """The share of the videos of which a row has no pairs."""
        own = self.rows[row].held_out_share
        return self.held_out_share if own is None else own

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} has duplicates; give each seed once")
        known = {phase.name for phase in self.phases}
        earlier: set[str] = set()
        for name, row in self.rows.items():
            if unknown := [phase for phase in row.phases if phase not in known]:
                raise ValueError(f"rows.{name}: unknown phases {unknown}; the phases are {sorted(known)}")
            if row.start and row.model:
                raise ValueError(f"rows.{name}: give either start or model, not both")
            for other in {row.start, row.pairs_from} - {"", TRUTH}:
                if other not in earlier:
                    raise ValueError(f"rows.{name}: {other!r} is not the name of an earlier row")
                if not self.rows[other].has_seed((row.num_seeds or len(self.seeds)) - 1):
                    raise ValueError(
                        f"rows.{name} needs row {other!r}, which has fewer seeds; raise its num_seeds"
                    )
            for key in row.data:
                if key.partition(".")[0] not in ROW_SECTIONS and key not in ROW_KEYS:
                    allowed = ", ".join((*(f"{section}.*" for section in ROW_SECTIONS), *ROW_KEYS))
                    raise ValueError(f"rows.{name}.data: {key!r} must be equal for all rows; use {allowed}")
            earlier.add(name)
        shown = [[section.rows for section in (*self.claims, *self.tables.values(), *self.plots.values())]]
        shown += [[table.groups for table in self.tables.values()], self.baselines, list(self.colors)]
        shown += [[question.conditions for question in self.map]]
        if unknown := sorted(_strings(shown) - {*self.rows}):
            raise ValueError(
                f"claims, map, tables, plots, baselines or colors name unknown rows: {', '.join(unknown)}. "
                f"The rows are {', '.join(self.rows)}"
            )
        return self


def _strings(value: Any) -> set[str]:
    """All strings in nested lists and values of tables."""
    if isinstance(value, str):
        return {value}
    return set().union(*map(_strings, value.values() if isinstance(value, dict) else value))


def load_study(path: Path) -> tuple[StudyConfig, dict[str, Any]]:
    """The validated study of a TOML file, and the plain data of its base run with `set` applied.

    Raises ValueError that names every wrong key and shows its value.
    """
    data = _read_toml(path, key="study")
    try:
        study = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item, StudyConfig) for item in error.errors())) from None
    plain = _read_toml(Path(study.base), key="base")
    for key in ("phases", "baselines", "instructions", "max_instructions"):
        plain.get("training", {}).pop(key, None)
    return study, set_values(plain, study.set)


def _read_toml(path: Path, *, key: str) -> dict[str, Any]:
    """The data of a TOML file, merged over the data of the file that it extends.

    The path `base` becomes relative to the working directory.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {path} cannot be read as TOML: {error}") from None
    if isinstance(data.get("base"), str):
        data["base"] = str(path.parent / data["base"])
    if "extends" not in data:
        return data
    parent = _read_toml(path.parent / data.pop("extends"), key="extends")
    tables = [name for name in data if isinstance(data[name], dict)]
    return parent | data | {name: parent.get(name, {}) | data[name] for name in tables}


def select(study: StudyConfig, *, rows: Sequence[str], seeds: Sequence[int]) -> StudyConfig:
    """The study with only these rows (and the rows that they need) and these seeds; empty means all.

    Raises ValueError for an unknown row and for a seed that is given twice.
    """
    if unknown := [row for row in rows if row not in study.rows]:
        raise ValueError(f"--rows: unknown row {unknown[0]!r}; the rows are {', '.join(study.rows)}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds: {list(seeds)} has duplicates; give each seed once")
    needed = set(rows or study.rows)
    for name in reversed(list(study.rows)):
        if name in needed:
            needed |= {study.rows[name].start, study.rows[name].pairs_from}
    kept = {name: row for name, row in study.rows.items() if name in needed}
    return study.model_copy(update={"rows": kept, "seeds": tuple(seeds) or study.seeds})


def set_values(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the plain data of a run with values (`section.key`) set; ValueError for wrong keys."""
    changes = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return override(copy.deepcopy(dict(plain)), changes)


def row_config(
    study: StudyConfig, plain: Mapping[str, Any], name: str, *, seed: int, model: str = "", pairs: str = ""
) -> Config:
    """The configuration of a row's run; the row "" is the base run, which has no phases.

    `plain` is the data of the base run. `model` is a checkpoint to start from, by default the row's own, and
    `pairs` a file to import pairs from. Raises ValueError that names the row.
    """
    row = study.rows.get(name, RowConfig(description=""))
    library, phases = {phase.name: phase for phase in study.phases}, []
    for phase in (library[phase] for phase in row.phases):
        changes = study.dpo | row.dpo if phase.objective == "dpo" else study.sft | row.sft
        phases.append(phase.model_dump(exclude_unset=True) | changes)
    values = {**row.data, "run.seed": seed, "run.num_workers": 1}
    values |= {"model.path": path} if (path := model or row.model) else {}
    values |= {"pairs.import_from": pairs} if pairs else {}
    try:
        settings = set_values(plain, values)
        settings.setdefault("training", {})["phases"] = phases
        config = parse_config(settings)
    except ValueError as error:
        raise ValueError(f"{f'rows.{name}' if name else 'base'}: {error}") from None
    if config.synthetic is None:
        raise ValueError("base: a study needs a run of the embedded world; add a [synthetic] section")
    return config
