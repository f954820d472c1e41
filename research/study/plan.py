"""From rows and seeds to jobs: which data, which phases, which measurements, each done once however many rows
need it.

A phase is known by all that it depends on: its data, the phases before it, its own settings. Rows that begin
alike share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from research.study.config import TRUTH, RowConfig, StudyConfig, row_phases, run_config
from tempo.config import Config, PhaseConfig
from tempo.model.loading import check_model_path, resolve_model_path


@dataclass(frozen=True)
class DataJob:
    """A run directory with everything up to pairs.

    `shares` is another one of the same seed, of which stages are taken over as far as they are equal;
    `pairs_by` the job whose model makes the pairs.
    """

    key: str
    directory: Path
    config: Config
    shares: Path | None = None
    pairs_by: str = ""
    is_truth: bool = False

    @property
    def done(self) -> Path:
        """What is there when the job is done."""
        return self.directory / "study.json"


@dataclass(frozen=True)
class PhaseJob:
    """One phase in a data job's directory; it begins with a checkpoint, or with what another phase left."""

    key: str
    data: DataJob
    config: Config
    phase: PhaseConfig
    start: PhaseJob | str

    @property
    def directory(self) -> Path:
        """Where the phase lies."""
        return self.data.directory / "phases" / self.key

    @property
    def done(self) -> Path:
        """What is there when the job is done: where the model is after the phase."""
        return self.directory / "result.json"


@dataclass(frozen=True)
class MeasureJob:
    """The benchmark and the probe of one model, on the held-out videos of its seed."""

    key: str
    data: DataJob
    model: PhaseJob | str
    done: Path
    probe_videos: int
    blind: bool = False


Job: TypeAlias = DataJob | PhaseJob | MeasureJob


@dataclass(frozen=True)
class Measured:
    """One row with one seed: the jobs that make its figures."""

    row: str
    seed: int
    phases: tuple[PhaseJob, ...]
    #: Those of the rows that it goes on from.
    before: tuple[PhaseJob, ...]
    data: DataJob | None
    measure: MeasureJob


@dataclass(frozen=True)
class Plan:
    """All jobs by key, each after those that it needs, and what becomes of them."""

    jobs: dict[str, Job]
    measured: tuple[Measured, ...]


def needs(job: Job) -> list[str]:
    """Keys of the jobs that must be done before."""
    if isinstance(job, DataJob):
        shared = [job.shares.name] if job.shares else []
        return [*shared, *([job.pairs_by] if job.pairs_by else [])]
    start = job.start if isinstance(job, PhaseJob) else job.model
    return [job.data.key, *([start.key] if isinstance(start, PhaseJob) else [])]


def make_plan(study: StudyConfig, plain: Mapping[str, Any], directory: Path) -> Plan:
    """The jobs of a study in `directory`; raises ValueError that names a row that cannot be."""
    measured: list[Measured] = []
    jobs: dict[str, Job] = {}
    for number, seed in enumerate(study.seeds):
        planner = _Planner(study, plain, directory, seed)
        measured += [planner.row(name) for name, row in study.rows.items() if row.has_seed(number)]
        jobs |= planner.jobs
    return Plan(jobs, tuple(measured))


class _Planner:
    """The jobs of one seed."""

    def __init__(self, study: StudyConfig, plain: Mapping[str, Any], directory: Path, seed: int) -> None:
        self._study, self._plain, self._directory, self._seed = study, plain, directory, seed
        self.jobs: dict[str, Job] = {}
        self._last: dict[str, PhaseJob | str] = {}
        #: The checkpoint that a row, or the first of the rows it goes on from, began with.
        self._origin: dict[str, str] = {}
        self._chains: dict[str, tuple[PhaseJob, ...]] = {}
        self._shared: DataJob | None = None
        self._shared = self._data("", RowConfig(says=""), self._path())

    def row(self, name: str) -> Measured:
        """Plans one row; those that it refers to must have been planned."""
        row = self._study.rows[name]
        phases = row_phases(self._study, name)
        trains_pairs = any(phase.objective == "dpo" for phase in phases)
        origin = self._origin[row.start] if row.start else row.model or self._path()
        # Without pairs to make, who would make them does not matter.
        data = self._data(name, row, origin if trains_pairs else self._path())
        model: PhaseJob | str = self._last[row.start] if row.start else origin
        chain: list[PhaseJob] = []
        for phase in phases:
            model = self._phase(data, phase, model, origin)
            chain.append(model)
        before = self._chains.get(row.start, ())
        self._last[name], self._origin[name] = model, origin
        self._chains[name] = (*before, *chain)
        measure = self._measure(model, blind=row.blind)
        return Measured(name, self._seed, tuple(chain), before, data if trains_pairs else None, measure)

    def _path(self) -> str:
        return str(self._plain.get("model", {}).get("path", "embedded"))

    def _data(self, name: str, row: RowConfig, origin: str) -> DataJob:
        """The data of a row; without a name the data that others share, with pairs held out for the probe."""
        config = run_config(self._plain, row, seed=self._seed, key=f"rows.{name}" if name else "base")
        by = row.pairs_by or origin
        pairs_by = ""
        if by and by != TRUTH:
            model = self._last.get(by, by)
            path = str(model.done) if isinstance(model, PhaseJob) else model
            pairs_by = model.key if isinstance(model, PhaseJob) else ""
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
        # The place of a model is no property of it: its key stands for it.
        left_out: dict[str, set[str]] = {"run": {"num_workers"}, "model": {"device", "path"}}
        settings = config.model_dump(mode="json", exclude=left_out)
        known = pairs_by or model_key(config.model.path)
        key = f"{self._seed}-{_key('data', settings, known, by == TRUTH)}"
        shares = self._shared.directory if self._shared else None
        job = DataJob(key, self._directory / "data" / key, config, shares, pairs_by, by == TRUTH)
        if self._shared and key == self._shared.key:
            return self._shared
        self.jobs[key] = job
        return job

    def _phase(self, data: DataJob, phase: PhaseConfig, start: PhaseJob | str, first: str) -> PhaseJob:
        before = start.key if isinstance(start, PhaseJob) else model_key(start)
        # A fixed reference is the model that the row began with.
        key = _key("phase", data.key, before, model_key(first), phase.model_dump(mode="json"))
        config = data.config.model_copy(
            update={"model": data.config.model.model_copy(update={"path": first})}
        )
        job = PhaseJob(key, data, config, phase, start)
        return self.jobs.setdefault(key, job)  # type: ignore[return-value]

    def _measure(self, model: PhaseJob | str, *, blind: bool) -> MeasureJob:
        assert self._shared is not None
        known = model.key if isinstance(model, PhaseJob) else model_key(model)
        key = _key("measure", self._shared.key, known, blind, self._study.probe_videos)
        done = self._directory / "results" / f"{key}.json"
        job = MeasureJob(key, self._shared, model, done, self._study.probe_videos, blind)
        return self.jobs.setdefault(key, job)  # type: ignore[return-value]


@cache
def model_key(path: str) -> str:
    """What a checkpoint is known by: a hash of its weights and words in a directory, else its name.

    Raises ValueError for a directory that is no checkpoint.
    """
    check_model_path(path)
    directory = Path(resolve_model_path(path))
    if not directory.is_dir():
        return path
    digest = hashlib.sha256()
    for file in sorted(
        (*directory.glob("*.safetensors"), *directory.glob("*.json"), *directory.glob("*.jinja"))
    ):
        # What a card says changes nothing.
        if file.name != "scores.json":
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
