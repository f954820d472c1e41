"""What a stage is given, and what it makes: a factory of workers that map records to records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tempo.config import Config
from tempo.core.records import Record, Skipped

#: Maps a batch to one result each, in the same order: the stage's record, or a drop that says why not.
Worker: TypeAlias = Callable[[Sequence[Any]], Sequence[Record | Skipped]]


@dataclass(frozen=True)
class Context:
    """What a worker factory is given: the whole configuration and the run directory."""

    config: Config
    directory: Path


class SkipRecord(ValueError):
    """Raised inside a worker's helper to skip the current record."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
