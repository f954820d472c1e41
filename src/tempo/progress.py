"""Progress for people: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Seconds between two lines in a log file.
LINE_EVERY_SECONDS = 15.0


class Counter:
    """Counts units of work and shows how many, how fast, and how long it will take."""

    def __init__(self, console: Console, name: str, total: int) -> None:
        self.console = console
        self.name = name
        self.total = total
        self.done = 0
        self._start = self._shown = time.perf_counter()
        self._bar: Progress | None = None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units; `note` is a figure worth showing."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=count, note=f"{self._rate()} {note}")
        elif time.perf_counter() - self._shown > LINE_EVERY_SECONDS:
            self._shown = time.perf_counter()
            left = (self.total - self.done) * (self._shown - self._start) / max(1, self.done)
            self.console.print(
                f"{self.name}: {self.done}/{self.total} {self._rate()} {left:.0f} s left {note}"
            )

    def _rate(self) -> str:
        return f"{self.done / max(1e-9, time.perf_counter() - self._start):.1f}/s"

    @contextlib.contextmanager
    def live(self) -> Iterator[Counter]:
        """Shows the bar while the work runs, and one closing line after it."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            more = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            with Progress(*columns, *more, console=self.console, transient=True) as self._bar:
                self._bar.add_task(self.name, total=self.total, note="")
                yield self
            self._bar = None
        else:
            yield self
        seconds = time.perf_counter() - self._start
        self.console.print(f"{self.name}: {self.done}/{self.total} in {seconds:.1f} s")
