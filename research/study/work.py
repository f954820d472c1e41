"""What the jobs of a study do. Each leaves its mark last, so that a job that was stopped is done again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from research.study.plan import DataJob, Job, MeasureJob, PhaseJob
from tempo.core.files import write_json
from tempo.engine.types import Context
from tempo.pipeline.runner import run_stages

#: The last stage of a data job.
LAST = "pairs"

#: Per run directory and processor, what a process measured for one phase and needs for the next.
_PREFIX_LENGTHS: dict[tuple[Path, str], dict[tuple[str, int, str], int]] = {}


def do(job: Job) -> None:
    """Does a job, unless it is done; beside what came out stand its seconds and the code that did it."""
    if job.done.exists():
        return
    start = time.perf_counter()
    made = _MAKERS[type(job)](job)
    write_json(job.done, {**made, "job_seconds": round(time.perf_counter() - start, 1), "commit": commit()})


def make_data(job: DataJob) -> dict[str, Any]:
    """Everything up to pairs, in the job's run directory."""
    config = job.config
    if job.pairs_by:
        path = json.loads(Path(config.model.path).read_text())["model"]
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
    context, quiet = Context(config, job.directory), Console(quiet=True)
    if job.is_truth:
        from research.study.truth import tell_captions, tell_responses

        run_stages(context, quiet, until="clips", source=job.shares)
        tell_captions(context)
        run_stages(context, quiet, until="perturbations")
        tell_responses(context)
    run_stages(context, quiet, until=LAST, source=None if job.is_truth else job.shares)
    if not job.shares:
        from tempo.evaluation.evaluate import store_benchmark

        store_benchmark(context)
    return {"key": job.key}


def train(job: PhaseJob) -> dict[str, Any]:
    """One phase; a phase without a single pair is passed over and leaves the model that it began with."""
    from tempo.training.phases import Session, run_phases

    known = _PREFIX_LENGTHS.setdefault((job.data.directory, job.config.model.path), {})
    session = Session(Context(job.config, job.data.directory), prefix_lengths=known)
    path = run_phases(session, [job.phase], job.directory, start=model_path(job.start))
    return {"model": str(path), "num_steps": len(_metrics(job))}


def measure_model(job: MeasureJob) -> dict[str, Any]:
    """The figures of a model."""
    from research.study.measure import measure

    return measure(job, model_path(job.model))


def model_path(model: PhaseJob | str) -> str:
    """The checkpoint that a phase left, or the one that is named."""
    return str(json.loads(model.done.read_text())["model"]) if isinstance(model, PhaseJob) else model


def first_steps(job: PhaseJob, count: int) -> dict[str, list[float]]:
    """Loss and norm of the gradient over a phase's first steps."""
    return {name: [row[name] for row in _metrics(job)[:count]] for name in ("loss", "grad_norm")}


def _metrics(job: PhaseJob) -> list[dict[str, Any]]:
    """A row per step of a phase; none if it was passed over."""
    path = job.directory / f"01-{job.phase.name}" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def commit() -> str:
    """The commit that is checked out, with `+` where the code differs; empty outside of a checkout."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short", "HEAD")
    return f"{name}+" if name and git("status", "--porcelain", "--", str(here)) else name


_MAKERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    DataJob: make_data,
    PhaseJob: train,
    MeasureJob: measure_model,
}
