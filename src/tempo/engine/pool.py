"""Runs a stage in this process, in a process pool on this machine, or on Ray (`engine/ray.py`).

If a process crashes, for example in a decoder, it is restarted and the batch is tried once more. A batch that
kills its process twice is skipped. Child processes exit when their parent does, even if it is killed.
"""

import contextlib
import importlib.util
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pkgutil import resolve_name
from typing import Any, Literal, TypeAlias

from tempo.config import Config, RunConfig
from tempo.core.records import Skipped
from tempo.engine.ranks import num_processes, pick_device
from tempo.engine.types import Batch, Context, ProcessDied, Result, Worker, count_workers

#: Where a stage runs: in this process, in several processes, or where the model is loaded.
Place: TypeAlias = Literal["here", "pool", "model"]


def check_engine(run: RunConfig) -> None:
    """Raises ValueError if the configured engine is not installed."""
    if run.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("run.engine 'ray' needs Ray. Install it with: pip install ray")


def map_batches(
    reference: str, context: Context, batches: Iterable[Batch], *, place: Place, stage: str
) -> Iterator[Result]:
    """Yields the results of the batches as they are ready. `reference` is the worker factory `module:name`.

    A batch is taken from `batches` when a process is free. Raises whatever a worker raises, and ValueError if
    processes die while they create their worker.
    """
    run, batches = context.config.run, iter(batches)
    # Nothing is started if there is no batch.
    first = next(batches, None)
    if first is None:
        return
    batches = itertools.chain([first], batches)
    is_local = run.engine == "local"
    count = count_local(context.config, place) if is_local else 0
    if place == "here" or (place == "model" and count == 1):
        yield from map(resolve_name(reference)(context), batches)
        return
    if is_local:
        processes = [_PoolProcess(reference, context, place) for _ in range(count)]
    else:
        from tempo.engine.ray import make_processes

        processes = make_processes(reference, context, holds_model=place == "model")
    try:
        yield from _share(processes, batches, stage)
    finally:
        for process in processes:
            process.stop()


def count_local(config: Config, place: Place) -> int:
    """The number of processes on this machine. Those with a model share the cores, and a GPU has only one."""
    count = count_workers(config.run.num_workers)
    if place != "model":
        return count
    import torch

    # Without the variable, one process uses all cores, but torch counts two hyperthreads as one thread.
    is_split = "OMP_NUM_THREADS" in os.environ and pick_device(config.model.device).type == "cpu"
    return max(1, count // torch.get_num_threads()) if is_split else 1


@contextlib.contextmanager
def all_cores(config: Config) -> Iterator[None]:
    """In the block, torch uses the cores that the processes of a stage with a model share in other stages."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(before, before * count_local(config, "model") // num_processes()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare_processes(config: Config) -> None:
    """Starts the process from which those with a model are forked, if any; its imports take seconds."""
    if config.run.engine == "local" and count_local(config, "model") > 1:
        forkserver.set_forkserver_preload(["tempo.model.imports"])
        with _without_interrupts():
            forkserver.ensure_running()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started in the block never get Ctrl-C, which their parent handles."""
    # The tracker of multiprocessing, started later, would end the block early.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share(processes: Sequence[Any], batches: Iterator[Batch], stage: str) -> Iterator[Result]:
    """Yields the results of the batches as they are ready; each process has one batch at a time.

    A process gets its first batch only after it has created its worker, so a process that starts late delays
    no batch. If the process of a batch dies twice, each record of the batch becomes Skipped.
    """
    # No more processes are started than there are batches.
    first = list(itertools.islice(batches, len(processes)))
    batches, are_left = itertools.chain(first, batches), True
    running: dict[Any, tuple[Any, Batch, int]] = {}
    for process, _ in zip(processes, first, strict=False):
        running[process.submit(())] = process, (), 1
    while are_left or any(batch for _, batch, _ in running.values()):
        for call in processes[0].wait(list(running)):
            process, batch, attempt = running.pop(call)
            try:
                result = process.result(call)
            except ProcessDied:
                process.stop()
                if attempt == 1:
                    running[process.submit(batch)] = process, batch, 2
                    continue
                result = _skip(process, batch, stage)
            # Before `yield`, so that the process works while the result is written.
            if following := next(batches, None):
                running[process.submit(following)] = process, following, 1
            are_left = following is not None
            if batch:
                yield result


def _skip(process: Any, batch: Batch, stage: str) -> Result:
    """Skipped for each record; raises ValueError if the process cannot even create its worker."""
    try:
        process.result(process.submit(()))
    except ProcessDied:
        raise ValueError(
            f"{stage}: processes die at startup, before their first batch. Check that there is enough free "
            "memory and that the installed libraries can be imported"
        ) from None
    return [Skipped(stage=stage, id=record.id, reason="process died") for record in batch]


class _PoolProcess:
    """A process on this machine. A call is represented by the pipe that returns its result.

    The process is spawned: a fork would copy locks that torch, OpenCV or the progress display hold. One with
    a model is forked from a process that has only imported what models need.
    """

    #: Waits until at least one of the calls has ended, and returns all that have.
    wait = staticmethod(wait)

    def __init__(self, reference: str, context: Context, place: Place) -> None:
        self._arguments = reference, context
        self._start: Any = multiprocessing.get_context("forkserver" if place == "model" else "spawn")
        self._process: BaseProcess | None = None

    def submit(self, batch: Batch) -> Connection:
        """Starts a call, in a new process if necessary. An empty batch only creates the worker."""
        if self._process is None:
            self._pipe, other_end = multiprocessing.Pipe()
            arguments = other_end, *self._arguments
            self._process = self._start.Process(target=_serve, args=arguments, daemon=True)
            with _without_interrupts():
                self._process.start()
            # Now only the process has this end open, so the pipe closes if the process dies.
            other_end.close()
        # `result` notices that the process has died.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(batch)
        return self._pipe

    def result(self, call: Connection) -> Result:
        """The records of a call that has ended. Raises whatever the worker raised, or ProcessDied."""
        try:
            answer = call.recv()
        except (EOFError, ConnectionResetError):
            raise ProcessDied from None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Kills the process."""
        if self._process is not None:
            self._process.terminate()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, reference: str, context: Context) -> None:
    """For each batch, sends the results of the worker or the exception that it raised."""
    follow_parent()
    worker: Worker | None = None
    with contextlib.suppress(EOFError):
        while True:
            batch = pipe.recv()
            try:
                worker = worker or resolve_name(reference)(context)
                pipe.send(worker(batch) if batch else ())
            except Exception as error:
                pipe.send(error)


def follow_parent() -> None:
    """Makes this process ignore Ctrl-C, which its parent handles, and exit when its parent exits."""

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            wait([parent.sentinel])
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
