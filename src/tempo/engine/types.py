"""Types shared by stages and engines: the context of a stage, workers and their results."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tempo.config import Config
from tempo.core.records import Record

Batch: TypeAlias = Sequence[Any]
Result: TypeAlias = Sequence[Record | Sequence[Record]]

#: Maps a batch to one result per record, in the same order: the stage's record, a list of them with ids of
#: their own (`clips` does this for the segments of a video), or Skipped with the reason.
Worker: TypeAlias = Callable[[Batch], Result]


@dataclass(frozen=True)
class Context:
    """The argument of a worker factory: the whole configuration and the run directory."""

    config: Config
    directory: Path


class SkipRecord(ValueError):
    """Raised by a worker to skip the current record with a reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.is_only_reason = reason, detail, False


class ProcessDied(Exception):
    """A process died while creating its worker or working on a batch."""


def flatten(result: Result) -> list[Record]:
    """All records of a result, in order."""
    return [row for found in result for row in ([found] if isinstance(found, Record) else found)]


def count_workers(asked: int) -> int:
    """The number of processes for a value of `run.num_workers`; 0 means one per usable core."""
    # macOS lacks sched_getaffinity; a process may use all cores there.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or usable
