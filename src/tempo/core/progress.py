"""Progress of long work: a live bar on a terminal, a line every few seconds in a log file."""

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
    """Counts units of work, and shows how many are done, how fast, and how long the rest will take."""

    def __init__(self, console: Console, name: str, total: int, *, done: int = 0) -> None:
        self.console, self.name, self.total = console, name, total
        #: Units of an earlier run count as done, but not for the speed.
        self.done = self._before = done
        self._start = self._shown = time.perf_counter()
        self._bar: Progress | None = None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units; `note` is shown beside the figures."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=count, note=f"{self._speed():.1f}/s {note}")
        elif time.perf_counter() - self._shown > LINE_EVERY_SECONDS:
            self._shown = time.perf_counter()
            left = (self.total - self.done) / max(1e-9, self._speed())
            figures = f"{self.done}/{self.total} {self._speed():.1f}/s {left:.0f} s left"
            self.console.print(f"{self.name}: {figures} {note}".rstrip())

    def _speed(self) -> float:
        """Units per second since the counter was made."""
        return (self.done - self._before) / max(1e-9, time.perf_counter() - self._start)

    @contextlib.contextmanager
    def live(self) -> Iterator[Counter]:
        """Shows the bar during the block, and a closing line after it."""
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            with Progress(*columns, *times, console=self.console, transient=True) as self._bar:
                self._bar.add_task(self.name, total=self.total, completed=self.done, note="")
                yield self
            self._bar = None
        else:
            yield self
        seconds = time.perf_counter() - self._start
        self.console.print(f"{self.name}: {self.done}/{self.total} in {seconds:.1f} s")


class Counters:
    """A context for counters in sequence: a new name closes the counter before it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stack = contextlib.ExitStack()
        self._current: Counter | None = None

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def show(self, name: str, done: int, total: int, note: str = "") -> None:
        """Shows that `done` of `total` units of `name` are done."""
        if self._current is None or self._current.name != name:
            self._stack.close()
            self._current = self._stack.enter_context(Counter(self.console, name, total).live())
        self._current.advance(done - self._current.done, note)
