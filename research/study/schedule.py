"""Does jobs side by side, each when those that it needs are done."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from research.study.plan import DataJob, Job, MeasureJob, needs
from tempo.engine.pool import count_workers, follow_parent, load

#: Called with the key of a job that is done, its seconds, how many are done and how many there are.
Progress = Callable[[str, float, int, int], None]

WORK = "research.study.work:do"


def run_jobs(jobs: Mapping[str, Job], *, num_workers: int, progress: Progress, work: str = WORK) -> None:
    """Does what is not done yet, in `num_workers` processes; `work` (module:name) does one job.

    Raises ValueError that names the job that failed; what was done until then stays.
    """
    done = {key for key, job in jobs.items() if job.done.exists()}
    context = multiprocessing.get_context("spawn")
    threads = max(1, count_workers(0) // num_workers)
    with ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(threads,)) as pool:
        running: dict[Future[float], str] = {}
        try:
            while len(done) < len(jobs):
                for key in _ready(jobs, done, running.values())[: num_workers - len(running)]:
                    running[pool.submit(_timed, work, jobs[key])] = key
                assert running, "no job can begin: each waits for another"
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    seconds = _result(key, future)
                    done.add(key)
                    progress(key, seconds, len(done), len(jobs))
        except BaseException:
            _stop(pool)
            raise


def _ready(jobs: Mapping[str, Job], done: set[str], running: Iterable[str]) -> list[str]:
    """Jobs that can begin; data first, for most others wait for it, and measurements last."""
    begun = {*done, *running}
    ready = [key for key, job in jobs.items() if key not in begun and done.issuperset(needs(job))]
    return sorted(
        ready, key=lambda key: (not isinstance(jobs[key], DataJob), isinstance(jobs[key], MeasureJob))
    )


def _timed(work: str, job: Job) -> float:
    start = time.perf_counter()
    load(work)(job)
    return time.perf_counter() - start


def _result(key: str, future: Future[float]) -> float:
    try:
        return future.result()
    except BrokenProcessPool:
        raise ValueError(
            f"a process of the study ended without a word, perhaps for lack of memory, at {key}; the same "
            "command goes on, --workers 1 needs less"
        ) from None
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _begin(threads: int) -> None:
    """Each process has its share of the cores: two that use all of them are far slower than in turn."""
    import torch

    follow_parent()
    # As in the command line: libraries tell each other about names that will change.
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(threads)


def _stop(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()
