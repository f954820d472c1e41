"""A study: rows by seeds, done side by side, gone on with after a stop, written down as `study.json`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempo.engine import count_workers
from tempo.store import RunStore, write_json
from tempo.study.config import StudyConfig, load_study, select
from tempo.study.plan import Measured, Plan, make_plan
from tempo.study.schedule import run_jobs
from tempo.study.work import first_steps, training_seconds

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
    from tempo.study.documents import write_page
    from tempo.study.summary import summarize_study, write_study

    study, plain = load_study(config)
    study = select(study, rows=rows, seeds=seeds)
    with RunStore(directory).lock():
        plan = make_plan(study, plain, directory.resolve())
        workers = num_workers or study.num_workers or default_workers()
        left = sum(not job.done.exists() for job in plan.jobs.values())
        tell(f"study: {len(plan.jobs)} jobs, {left} to do, {workers} at once")
        start = time.monotonic()
        run_jobs(plan.jobs, num_workers=workers, progress=_teller(plan, tell))
        minutes = _add_minutes(directory, (time.monotonic() - start) / 60)
        found = [collect(measured, study) for measured in plan.measured]
        result = summarize_study(found, command=command, commit=commit(), minutes=round(minutes, 1))
        write_study(result, directory / "study.json")
        write_page(result, directory)
    return result


def collect(measured: Measured, study: StudyConfig) -> dict[str, Any]:
    """All that is known of one row with one seed."""
    row = study.rows[measured.row]
    tuned = next((job for job in measured.phases if job.phase.objective == "sft"), None)
    num_pairs = 0
    if measured.data is not None:
        num_pairs = sum(1 for _ in RunStore(measured.data.directory).path("pairs").open("rb"))
    return {
        "row": measured.row,
        "seed": measured.seed,
        "says": row.says,
        "phases": list(row.phases),
        **json.loads(measured.measure.done.read_text()),
        "sft_start": first_steps(tuned, NUM_FIRST_STEPS) if tuned else None,
        "num_pairs": num_pairs,
        "seconds": round(sum(map(training_seconds, measured.phases)), 1),
        "config": {
            **row.model_dump(mode="json", exclude={"says", "phases"}, exclude_defaults=True),
            "phases": [job.phase.model_dump(mode="json", exclude_defaults=True) for job in measured.phases],
        },
    }


def default_workers() -> int:
    """One process per core; a single one where there is a GPU, which two would only share."""
    import torch

    return 1 if torch.cuda.is_available() else count_workers(0)


def commit() -> str:
    """The commit that is checked out, with `+` where files differ from it; empty outside of a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short", "HEAD")
    return f"{name}+" if name and git("status", "--porcelain", "--untracked-files=no", str(here)) else name


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


def _add_minutes(directory: Path, minutes: float) -> float:
    """Minutes of all goes at this study together."""
    path = directory / "minutes.json"
    before = float(json.loads(path.read_text())["minutes"]) if path.exists() else 0.0
    write_json(path, {"minutes": before + minutes})
    return before + minutes
