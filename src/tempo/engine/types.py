"""What stages and engines share: workers and their results, and how batches are given to processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from tempo.config import Config
from tempo.core.records import Record, Skipped

Batch: TypeAlias = Sequence[Any]
Result: TypeAlias = Sequence[Record | Skipped]

#: Maps a batch to one result per record, in the same order: the stage's record, or Skipped with the reason.
Worker: TypeAlias = Callable[[Batch], Result]


@dataclass(frozen=True)
class Context:
    """What a worker factory gets: the whole configuration and the run directory."""

    config: Config
    directory: Path


class SkipRecord(ValueError):
    """Raised while a worker handles a record, to skip it with a reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NoWorkerError(ValueError):
    """Processes die before they have a worker, so no record is the cause."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"processes die while they make the worker {reference}, so no record was skipped for it. "
            "Check the free memory, and that the libraries of the stage can be imported"
        )


class ProcessDied(Exception):
    """A process ended while it had a batch, or made its worker."""


class Process(Protocol):
    """A process with a worker, on this machine or elsewhere; it is started again after it died."""

    def submit(self, batch: Batch) -> Any:
        """Starts a call that gives the batch's results. An empty batch only makes the worker."""

    def result(self, call: Any) -> Result:
        """What a call that has ended gave; raises what the worker raised, or ProcessDied."""


def share(
    processes: Sequence[Process],
    batches: Sequence[Batch],
    *,
    wait: Callable[[list[Any]], Sequence[Any]],
    reference: str,
    stage: str,
) -> Iterator[Result]:
    """Results of the batches as they are ready; each process has one batch at a time.

    A process gets its first batch when its worker is made, so that one that starts late delays nothing else.
    A batch whose process dies is tried once more, and then gives Skipped for each of its records. `wait`
    returns those of the calls that have ended. Raises what a worker raises, and NoWorkerError.
    """
    left = deque(batches)
    running: dict[Any, tuple[Process, Batch, int]] = {p.submit(()): (p, (), 1) for p in processes}
    while left or any(batch for _, batch, _ in running.values()):
        for call in wait(list(running)):
            process, batch, attempt = running.pop(call)
            try:
                result = process.result(call)
            except ProcessDied:
                if attempt == 1:
                    running[process.submit(batch)] = process, batch, 2
                    continue
                result = _skip(process, batch, reference, stage)
            if left:
                # Before `yield`, so that the process works while the result is written.
                following = left.popleft()
                running[process.submit(following)] = process, following, 1
            if batch:
                yield result


def _skip(process: Process, batch: Batch, reference: str, stage: str) -> Result:
    """Skipped for each record; raises NoWorkerError if the process dies without the batch too."""
    try:
        process.result(process.submit(()))
    except ProcessDied:
        raise NoWorkerError(reference) from None
    return [
        Skipped(stage=stage, id=r.id, reason="process died", detail="while at this record") for r in batch
    ]


def load(reference: str) -> Callable[..., Any]:
    """The function named by `module:name`; the module is imported now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def count_workers(asked: int) -> int:
    """The number of processes for `run.num_workers`; 0 is one per core that this process may use."""
    if asked:
        return asked
    # macOS has no such function: there a process may use all cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
