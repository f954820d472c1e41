"""From rows and seeds to jobs: which data, which phases, which measurements.

A phase is identified by all that it depends on: its data, the phases before it, its own settings. Rows that
begin with the same phases share them, and a job is done once however many rows need it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research.study.config import TRUTH, RowConfig, StudyConfig, row_phases, run_config
from tempo.config import Config, PhaseConfig
from tempo.core.hashing import hash_checkpoint, hash_text
from tempo.model.loading import check_model_path, resolve_model_path


@dataclass(frozen=True)
class Job:
    """One piece of work with the run directory of `data`, known by `key`.

    `model` is a checkpoint, or the phase that makes it.
    """

    key: str
    directory: Path
    config: Config
    model: PhaseJob | str
    data: DataJob | None

    @property
    def done(self) -> Path:
        """The file with the result, which is written last."""
        return self.directory / "result.json"

    @property
    def needs(self) -> set[str]:
        """Keys of the jobs that must be done first."""
        return {job.key for job in (self.model, self.data) if isinstance(job, Job)}


@dataclass(frozen=True)
class DataJob(Job):
    """Makes a run with all stages up to pairs, which `model` makes (or true scripts, for TRUTH).

    Stages with the same settings are taken over from `data`.
    """


@dataclass(frozen=True)
class PhaseJob(Job):
    """Trains `model` with one phase; `config.model` is the reference of phases with a fixed reference."""

    phase: PhaseConfig


@dataclass(frozen=True)
class MeasureJob(Job):
    """Measures `model` with the benchmark and the probe, on the held-out videos of its seed."""

    probe_videos: int
    blind: bool


@dataclass(frozen=True)
class RowPlan:
    """One row with one seed: the checkpoint that it starts from, all of its phases, and its measurement."""

    row: str
    seed: int
    origin: str
    phases: tuple[PhaseJob, ...]
    measure: MeasureJob

    @property
    def model(self) -> PhaseJob | str:
        """The model that the row ends with."""
        return self.phases[-1] if self.phases else self.origin


def make_plan(
    study: StudyConfig, plain: Mapping[str, Any], directory: Path
) -> tuple[dict[str, Job], list[RowPlan]]:
    """All jobs of a study by key, each after those that it needs, and the rows that they belong to.

    `plain` is the data of the base run. Raises ValueError that names a row with wrong settings.
    """
    jobs: dict[str, Job] = {}
    plans: list[RowPlan] = []
    for number, seed in enumerate(study.seeds):
        planner = _SeedPlanner(study, plain, directory, seed, jobs)
        plans += [planner.plan_row(name) for name, row in study.rows.items() if row.has_seed(number)]
    return jobs, plans


@dataclass
class _SeedPlanner:
    """Adds the jobs of one seed to `jobs`."""

    study: StudyConfig
    plain: Mapping[str, Any]
    directory: Path
    seed: int
    jobs: dict[str, Job]
    rows: dict[str, RowPlan] = field(default_factory=dict)
    #: The base run: its videos, benchmark and held-out pairs serve all measurements.
    base: DataJob | None = None

    def __post_init__(self) -> None:
        self.base_model = str(self.plain.get("model", {}).get("path", "embedded"))
        self.base = self._data("base", RowConfig(description=""), self.base_model)

    def plan_row(self, name: str) -> RowPlan:
        """Plans one row; the rows that it refers to must have been planned."""
        row, configs = self.study.rows[name], row_phases(self.study, name)
        before = self.rows.get(row.start)
        origin = before.origin if before else row.model or self.base_model
        phases = list(before.phases) if before else []
        maker = row.pairs_by or origin
        if not any(phase.objective == "dpo" for phase in configs):
            # Without pairs there are only instructions, which do not depend on a model.
            maker = self.base_model
        data = self._data(f"rows.{name}", row, self.rows[maker].model if maker in self.rows else maker)
        for config in configs:
            phases.append(self._phase(data, config, phases[-1] if phases else origin, origin))
        measure = self._measure(phases[-1] if phases else origin, blind=row.blind)
        self.rows[name] = RowPlan(name, self.seed, origin, tuple(phases), measure)
        return self.rows[name]

    def _data(self, key: str, row: RowConfig, maker: PhaseJob | str) -> DataJob:
        config = run_config(self.plain, row, seed=self.seed, key=key)
        # A model is identified by its content, not by its place.
        ignored = {"run": {"num_workers"}, "model": {"device", "path"}}
        name = f"{self.seed}-{_hash(config.model_dump(mode='json', exclude=ignored), _model_key(maker))}"
        if name not in self.jobs:
            self.jobs[name] = DataJob(name, self.directory / "data" / name, config, maker, self.base)
        return self.jobs[name]  # type: ignore[return-value]

    def _phase(self, data: DataJob, phase: PhaseConfig, start: PhaseJob | str, origin: str) -> PhaseJob:
        key = _hash(data.key, _model_key(start), _model_key(origin), phase.model_dump(mode="json"))
        directory, config = data.directory / "phases" / key, with_model(data.config, origin)
        return self.jobs.setdefault(key, PhaseJob(key, directory, config, start, data, phase))  # type: ignore[return-value]

    def _measure(self, model: PhaseJob | str, *, blind: bool) -> MeasureJob:
        assert self.base is not None
        videos = self.study.probe_videos
        key = _hash(self.base.key, _model_key(model), blind, videos)
        directory = self.directory / "results" / key
        job = MeasureJob(key, directory, self.base.config, model, self.base, videos, blind)
        return self.jobs.setdefault(key, job)  # type: ignore[return-value]


def with_model(config: Config, path: str) -> Config:
    """The configuration with another `model.path`."""
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})


def _model_key(model: PhaseJob | str) -> str:
    """What identifies a model: the key of the phase that makes it, or the content of a checkpoint.

    Raises ValueError for a directory that is not a checkpoint.
    """
    if isinstance(model, PhaseJob):
        return model.key
    if model == TRUTH:
        return model
    check_model_path(model)
    directory = Path(resolve_model_path(model))
    # A name of the Hugging Face hub stands for itself.
    return hash_checkpoint(directory) if directory.is_dir() else model


def _hash(*parts: Any) -> str:
    return hash_text(json.dumps(parts, sort_keys=True))[:12]
