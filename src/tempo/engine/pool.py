"""Where a stage runs: in this process, in a pool of processes, or on Ray. Not what it does.

A decoder that crashes takes its process with it; the record that did it is found and set aside, and the pool
is made again. Workers end with the process that started them, however that one ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing.connection import wait as wait_for_process
from multiprocessing.synchronize import Event
from typing import Any, Literal, TypeAlias

from tempo.config import RunConfig
from tempo.core.records import Record, Skipped
from tempo.engine.types import Context, Worker

Batch: TypeAlias = Sequence[Any]
Result: TypeAlias = Sequence[Record | Skipped]

#: What a stage needs: nothing but this process, processes side by side, or the one that holds a model.
Place: TypeAlias = Literal["here", "pool", "model"]

#: A fork would copy the threads' locks of torch, OpenCV and the progress display.
SPAWN = multiprocessing.get_context("spawn")

_worker: Worker | None = None
_failure: Exception | None = None


class NoWorkerError(ValueError):
    """A process ended before its worker was made, and so did the one in its place: no record is to blame."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"a process died twice while {reference} was being made in it, of lack of memory or of a library "
            "that crashes when it is loaded; nothing was set aside for it"
        )


def count_workers(asked: int) -> int:
    """The number of processes for `run.num_workers`; 0 asks for one per usable core."""
    return asked or len(os.sched_getaffinity(0))


def load(reference: str) -> Callable[..., Any]:
    """The function that `module:name` refers to; the module is imported only now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def check_engine(run: RunConfig) -> None:
    """Raises ValueError where the engine of a run is not installed."""
    if run.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("run.engine 'ray' needs Ray: pip install '.[ray]' in the checkout")


@contextlib.contextmanager
def session(run: RunConfig) -> Iterator[None]:
    """What an engine starts, it keeps from stage to stage; here it ends, also by Ctrl-C."""
    try:
        yield
    finally:
        if run.engine == "ray":
            from tempo.engine.ray import disconnect

            disconnect()


def map_batches(
    reference: str, context: Context, batches: Sequence[Batch], *, place: Place, stage: str
) -> Iterator[Result]:
    """Results of the batches as they come, wherever `run.engine` has them done."""
    run = context.config.run
    if run.engine == "ray" and place != "here":
        from tempo.engine.ray import run_actors

        return run_actors(reference, context, batches, holds_model=place == "model", stage=stage)
    if place == "pool":
        workers = count_workers(run.num_workers)
        return run_pool(reference, context, batches, num_workers=workers, stage=stage)
    return run_here(reference, context, batches)


def run_here(reference: str, context: Context, batches: Sequence[Batch]) -> Iterator[Result]:
    """Results of the batches, one after the other, from one worker in this process."""
    if not batches:
        return
    worker = load(reference)(context)
    for batch in batches:
        yield worker(batch)


def run_pool(
    reference: str, context: Context, batches: Sequence[Batch], *, num_workers: int, stage: str
) -> Iterator[Result]:
    """Results of the batches as they come, from `num_workers` processes.

    A batch whose process dies twice gives a drop for each of its records. Raises NoWorkerError.
    """
    suspects: list[Batch] = []
    left = deque(batches)
    while left:
        yield from _drain(reference, context, left, num_workers, suspects)
        for batch in suspects:
            yield _run_alone(reference, context, batch, stage)
        suspects.clear()


def _drain(
    reference: str, context: Context, left: deque[Batch], num_workers: int, suspects: list[Batch]
) -> Iterator[Result]:
    """Works through `left` until it is empty or a process dies; what was then under way is suspect."""
    running: dict[Future[Result], Batch] = {}
    executor = _executor(reference, context, min(num_workers, len(left)), SPAWN.Event())
    try:
        while left or running:
            # Few batches wait in the pool, so that stopping is quick and slow videos hold up nothing.
            while left and len(running) < 2 * num_workers:
                # Taken off the list only once the pool has it: submitting to a broken pool raises.
                future = executor.submit(_work, left[0])
                running[future] = left.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del running[future]
                yield result
    except BrokenProcessPool:
        suspects += running.values()
    finally:
        _stop(executor)


def _run_alone(reference: str, context: Context, batch: Batch, stage: str) -> Result:
    """The batch's results, or its drops if it kills its process."""
    for _ in range(2):
        made = SPAWN.Event()
        executor = _executor(reference, context, 1, made)
        try:
            return executor.submit(_work, batch).result()
        except BrokenProcessPool:
            if made.is_set():
                return skip_batch(batch, stage)
        finally:
            _stop(executor)
    raise NoWorkerError(reference)


def skip_batch(batch: Batch, stage: str) -> Result:
    """The drops of a batch whose process died twice."""
    return [
        Skipped(stage=stage, id=r.id, reason="process died", detail="while at this record") for r in batch
    ]


def _executor(reference: str, context: Context, num_workers: int, made: Event) -> ProcessPoolExecutor:
    """A pool that sets `made` as soon as one of its workers is made."""
    return ProcessPoolExecutor(num_workers, SPAWN, initializer=_start, initargs=(reference, context, made))


def _stop(executor: ProcessPoolExecutor) -> None:
    executor.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def _start(reference: str, context: Context, made: Event) -> None:
    """Prepares a process of the pool."""
    global _worker, _failure
    follow_parent()
    try:
        _worker = load(reference)(context)
    except Exception as error:
        # Raised from an initializer it would look like a dead process; every batch raises it instead.
        _failure = error
    made.set()


def follow_parent() -> None:
    """Makes a pool process leave Ctrl-C to its parent, and end when the parent does, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_process([parent.sentinel])
        os._exit(1)


def _work(batch: Batch) -> Result:
    if _failure is not None:
        raise _failure
    assert _worker is not None
    return _worker(batch)
