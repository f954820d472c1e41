"""Runs a stage in this process, in a pool of processes of this machine, or through `engine/ray.py`.

A decoder that crashes ends its process, which is then started again. Its batch is tried once more and skipped
if that ends the process too. The processes end with the one that started them, even if that one is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, TypeAlias

from tempo.config import RunConfig
from tempo.engine.types import Batch, Context, ProcessDied, Result, Worker, count_workers, load, share

#: Where a stage runs: in this process, in several processes, or in one process per model.
Place: TypeAlias = Literal["here", "pool", "model"]

#: A fork would copy locked locks of torch, OpenCV and the progress display.
SPAWN = multiprocessing.get_context("spawn")


def check_engine(run: RunConfig) -> None:
    """Raises ValueError if the engine of a run is not installed."""
    if run.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("run.engine 'ray' needs Ray. Install it with: pip install ray")


def map_batches(
    reference: str, context: Context, batches: Sequence[Batch], *, place: Place, stage: str
) -> Iterator[Result]:
    """Results of the batches, in the order in which they are ready, from workers made by `module:name`."""
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
    """Results of the batches from `num_workers` processes, as `types.share` gives them."""
    processes = [_PoolProcess(reference, context) for _ in range(min(num_workers, len(batches)))]
    try:
        yield from share(processes, batches, wait=wait, reference=reference, stage=stage)
    finally:
        for process in processes:
            process.stop()


class _PoolProcess:
    """A process of this machine; a call is the end of the pipe through which the result comes."""

    def __init__(self, reference: str, context: Context) -> None:
        self._arguments = reference, context
        self._process: SpawnProcess | None = None

    def submit(self, batch: Batch) -> Connection:
        """See `types.Process`."""
        if self._process is None:
            self._pipe, other_end = SPAWN.Pipe()
            self._process = SPAWN.Process(target=_serve, args=(other_end, *self._arguments), daemon=True)
            self._process.start()
            # With the process as its only owner, its death closes it.
            other_end.close()
        # A dead process is found by `result`.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(batch)
        return self._pipe

    def result(self, call: Connection) -> Result:
        """See `types.Process`."""
        try:
            answer = call.recv()
        except (EOFError, ConnectionResetError):
            self.stop()
            raise ProcessDied from None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.terminate()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, reference: str, context: Context) -> None:
    """Answers each batch with the worker's results, or with what was raised."""
    follow_parent()
    worker: Worker | None = None
    # The pipe ends with the pool.
    with contextlib.suppress(EOFError):
        while True:
            batch = pipe.recv()
            try:
                worker = worker or load(reference)(context)
                pipe.send(worker(batch) if batch else ())
            except Exception as error:
                pipe.send(error)


def follow_parent() -> None:
    """Makes this process ignore Ctrl-C, which its parent handles, and end when its parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
