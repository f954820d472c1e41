"""Runs the jobs of a study side by side, each when those that it needs are done, and collects the results.

Every job writes a file when it is done, last of all. A study that was stopped continues with what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from research.study.analysis import Results
from research.study.config import TRUTH, load_study, select
from research.study.measure import measure
from research.study.output import write_report, write_results
from research.study.plan import DataJob, Job, MeasureJob, PhaseJob, RowPlan, make_plan, with_model
from research.study.truth import write_true_captions, write_true_responses
from tempo.core.files import write_json
from tempo.core.store import RunStore
from tempo.engine.pool import count_workers, follow_parent
from tempo.engine.types import Context
from tempo.evaluation.benchmark import read_samples
from tempo.evaluation.evaluate import benchmark_frames, benchmark_path
from tempo.pipeline.runner import run_stages
from tempo.training.phases import Session, run_phases

#: Steps that count as the start of SFT.
NUM_FIRST_STEPS = 10


def run_study(
    config: Path,
    directory: Path,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    num_workers: int = 0,
    command: str,
    log: Callable[[str], None] = print,
) -> Results:
    """Runs what is missing of a study in `directory`; writes `study.json` and `study.md` there.

    `rows` and `seeds` select a part of the study; `command` is recorded. Raises ValueError for a wrong
    configuration, and for a job that failed, by its name.
    """
    study, plain = load_study(config)
    study = select(study, rows=rows, seeds=seeds)
    with RunStore(directory).lock():
        jobs, plans = make_plan(study, plain, directory.resolve())
        # Two processes on one GPU would only share it.
        workers = num_workers or study.num_workers or (1 if torch.cuda.is_available() else count_workers(0))
        missing = sum(not job.done.exists() for job in jobs.values())
        log(f"study: {len(jobs)} jobs, {missing} to do, {workers} at once")
        run_jobs(jobs, num_workers=workers, log=log)
        done = [_result(job) for job in jobs.values()]
        origin = {
            "command": command,
            "commit": ", ".join(sorted({result["commit"] for result in done})),
            "date": datetime.now(UTC).date().isoformat(),
            "minutes": round(sum(result["job_seconds"] for result in done) / 60 / workers, 1),
            "seeds": sorted(study.seeds),
        }
        results = Results(study, [collect(plan) for plan in plans], origin)
        write_results(results, directory / "study.json")
        write_report(results, directory / "study.md")
    return results


def run_jobs(
    jobs: Mapping[str, Job],
    *,
    num_workers: int,
    work: Callable[[Job], None] | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Does the jobs that are not done, in `num_workers` processes; `work` does one job (by default `do_job`).

    Raises ValueError that names the job that failed; jobs that are done stay done.
    """
    done = {key for key, job in jobs.items() if job.done.exists()}
    context = multiprocessing.get_context("spawn")
    threads = max(1, count_workers(0) // num_workers)
    with ProcessPoolExecutor(num_workers, context, initializer=_start_process, initargs=(threads,)) as pool:
        running: dict[Future[float], str] = {}
        try:
            while len(done) < len(jobs):
                for key in _ready(jobs, done, running.values())[: num_workers - len(running)]:
                    running[pool.submit(_timed, work or do_job, jobs[key])] = key
                assert running, "no job can start: each needs another one"
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    seconds = _seconds(jobs[key], future)
                    done.add(key)
                    log(f"{len(done)}/{len(jobs)} {_describe(jobs[key])} in {seconds:.0f} s")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _ready(jobs: Mapping[str, Job], done: set[str], running: Iterable[str]) -> list[str]:
    """Keys of jobs that can start: data first, because most jobs wait for them, and measurements last."""
    started = {*done, *running}
    ready = [key for key, job in jobs.items() if key not in started and job.needs <= done]
    return sorted(ready, key=lambda key: [DataJob, PhaseJob, MeasureJob].index(type(jobs[key])))


def _timed(work: Callable[[Job], None], job: Job) -> float:
    start = time.perf_counter()
    work(job)
    return time.perf_counter() - start


def _seconds(job: Job, future: Future[float]) -> float:
    try:
        return future.result()
    except BrokenProcessPool:
        raise ValueError(
            f"{_describe(job)}: the process died, perhaps for lack of memory. Give the same command again to "
            "continue; --workers 1 needs less memory"
        ) from None
    except ValueError as error:
        raise ValueError(f"{_describe(job)}: {error}") from error


def _describe(job: Job) -> str:
    kind = job.phase.name if isinstance(job, PhaseJob) else type(job).__name__.removesuffix("Job").lower()
    return f"{kind} {job.key}"


def _start_process(threads: int) -> None:
    follow_parent()
    warnings.simplefilter("ignore", FutureWarning)
    # Two processes that both use all cores are far slower than one after the other.
    torch.set_num_threads(threads)


def do_job(job: Job) -> None:
    """Does one job, and writes its result with its seconds and the commit of the code."""
    start = time.perf_counter()
    if isinstance(job, DataJob):
        result = _make_data(job)
    elif isinstance(job, PhaseJob):
        result = _train(job)
    else:
        assert isinstance(job, MeasureJob)
        result = measure(job, _path(job.model))
    write_json(
        job.done, {**result, "job_seconds": round(time.perf_counter() - start, 1), "commit": _commit()}
    )


def _make_data(job: DataJob) -> dict[str, Any]:
    is_true = job.model == TRUTH
    context = Context(job.config if is_true else with_model(job.config, _path(job.model)), job.directory)
    quiet, source = Console(quiet=True), job.data.directory if job.data else None
    if is_true:
        run_stages(context, quiet, until="clips", source=source)
        write_true_captions(context)
        run_stages(context, quiet, until="perturbations")
        write_true_responses(context)
    run_stages(context, quiet, until="pairs", source=None if is_true else source)
    if job.data is None and (benchmark := benchmark_path(context)):
        # Measurements run side by side, and none of them should have to read the benchmark's videos.
        for video in sorted({sample.video for sample in read_samples(benchmark)}):
            benchmark_frames(context, benchmark.parent / video)
    return {}


def _train(job: PhaseJob) -> dict[str, Any]:
    """Trains one phase; a phase without a single pair is skipped and leaves the model as it was."""
    assert job.data is not None
    session = Session(Context(job.config, job.data.directory))
    path = run_phases(session, [job.phase], job.directory, start=_path(job.model))
    return {"model": str(path), "num_steps": len(_steps(job))}


def _path(model: PhaseJob | str) -> str:
    """The path of a checkpoint, or of the model that a finished phase made."""
    return str(_result(model)["model"]) if isinstance(model, PhaseJob) else model


def _steps(job: PhaseJob) -> list[dict[str, Any]]:
    """The metrics of every step of a phase; empty if the phase was skipped."""
    path = job.directory / f"01-{job.phase.name}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _result(job: Job) -> dict[str, Any]:
    return dict(json.loads(job.done.read_text()))


def _commit() -> str:
    """The commit of the checkout, with `+` if files differ from it; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def collect(plan: RowPlan) -> dict[str, Any]:
    """The record of one row and seed in `study.json`; `phases` lists those that were not skipped.

    Raises ValueError for a row whose DPO phases found no pairs.
    """
    results = [(job.phase, _result(job)) for job in plan.phases]
    trained = [(phase, result) for phase, result in results if result["num_steps"]]
    if len({phase.objective for phase, _ in results} - {phase.objective for phase, _ in trained}):
        raise ValueError(f"rows.{plan.row}: seed {plan.seed} has no pairs that its phases can use")
    sft = next((_steps(job)[:NUM_FIRST_STEPS] for job in plan.phases if job.phase.objective == "sft"), None)
    figures = _result(plan.measure)
    return {
        "row": plan.row,
        "seed": plan.seed,
        "phases": [phase.name for phase, _ in trained],
        **{key: value for key, value in figures.items() if key not in ("job_seconds", "commit")},
        "sft_start": sft and {key: [step[key] for step in sft] for key in ("loss", "grad_norm")},
        "num_steps": sum(result["num_steps"] for _, result in trained),
        "seconds": round(sum(result["job_seconds"] for _, result in trained), 1),
        "config": [phase.model_dump(mode="json", exclude_defaults=True) for phase, _ in results],
    }
