"""A study: rows by seeds, done side by side, gone on with after a stop, written down as `study.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from research.study.config import StudyConfig, load_study, select
from research.study.plan import Job, Measured, Plan, make_plan
from research.study.schedule import run_jobs
from research.study.work import first_steps
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.pool import count_workers
from tempo.training.examples import selects

#: Steps of an SFT phase that count as its start.
NUM_FIRST_STEPS = 10


def run_study(
    config: Path,
    directory: Path,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    num_workers: int = 0,
    command: str,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Does what is left of a study in `directory`; writes `study.json` and `study.html`, returns the former.

    Raises ValueError for a bad configuration, or naming the job that failed.
    """
    from research.study.documents import write_page
    from research.study.summary import summarize_study, write_study

    study, plain = load_study(config)
    study = select(study, rows=rows, seeds=seeds)
    with RunStore(directory).lock():
        plan = make_plan(study, plain, directory.resolve())
        workers = num_workers or study.num_workers or default_workers()
        left = sum(not job.done.exists() for job in plan.jobs.values())
        tell(f"study: {len(plan.jobs)} jobs, {left} to do, {workers} at once")
        run_jobs(plan.jobs, num_workers=workers, progress=_teller(plan, tell))
        found = [collect(measured, study) for measured in plan.measured]
        jobs = [_result(job) for job in plan.jobs.values()]
        commits = ", ".join(sorted({job["commit"] for job in jobs}))
        minutes = sum(job["job_seconds"] for job in jobs) / 60 / workers
        result = summarize_study(found, command=command, commit=commits, minutes=minutes)
        write_study(result, directory / "study.json")
        write_page(result, directory)
    return result


def collect(measured: Measured, study: StudyConfig) -> dict[str, Any]:
    """All that is known of one row with one seed.

    `phases` are those that found something to train on, from the base model on; `num_pairs` the pairs that
    any of them took, `seconds` the time of all of them. Raises ValueError for a row whose pairs none took.
    """
    row = study.rows[measured.row]
    chain = [(job, _result(job)) for job in (*measured.before, *measured.phases)]
    done = [(job, result) for job, result in chain if result["num_steps"]]
    if measured.data and not any(job.phase.objective == "dpo" for job, _ in done):
        raise ValueError(f"rows.{measured.row}: seed {measured.seed} has no pair that its phases ask for")
    tuned = next((job for job in measured.phases if job.phase.objective == "sft"), None)
    figures = _result(measured.measure)
    return {
        "row": measured.row,
        "seed": measured.seed,
        "says": row.says,
        "phases": [job.phase.name for job, _ in done],
        **{key: value for key, value in figures.items() if key not in ("job_seconds", "commit")},
        "sft_start": first_steps(tuned, NUM_FIRST_STEPS) if tuned else None,
        "num_pairs": _num_pairs(measured),
        "num_steps": sum(result["num_steps"] for _, result in done),
        "seconds": round(sum(result["job_seconds"] for _, result in done), 1),
        "config": {
            **row.model_dump(mode="json", exclude={"says", "phases"}, exclude_defaults=True),
            "phases": [job.phase.model_dump(mode="json", exclude_defaults=True) for job in measured.phases],
        },
    }


def _num_pairs(measured: Measured) -> int:
    """Pairs that any phase of the row took."""
    if measured.data is None:
        return 0
    pairs = RunStore(measured.data.directory).read("pairs", Pair)
    wanted = [job.phase for job in measured.phases if job.phase.objective == "dpo"]
    return sum(any(selects(phase, pair) for phase in wanted) for pair in pairs)


def _result(job: Job) -> dict[str, Any]:
    return dict(json.loads(job.done.read_text()))


def default_workers() -> int:
    """One process per core; a single one where there is a GPU, which two would only share."""
    import torch

    return 1 if torch.cuda.is_available() else count_workers(0)


def _teller(plan: Plan, tell: Callable[[str], None]) -> Callable[[str, float, int, int], None]:
    names: dict[str, str] = {}
    for measured in plan.measured:
        for key in (*(job.key for job in measured.phases), measured.measure.key):
            names.setdefault(key, f"{measured.row}, seed {measured.seed}")
        if measured.data:
            names.setdefault(measured.data.key, f"pairs of {measured.row}, seed {measured.seed}")

    def progress(key: str, seconds: float, done: int, total: int) -> None:
        job = plan.jobs[key]
        what = getattr(getattr(job, "phase", None), "name", type(job).__name__.removesuffix("Job").lower())
        tell(f"{done}/{total} {what} ({names.get(key, key)}) in {seconds:.0f} s")

    return progress
