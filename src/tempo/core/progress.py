"""Progress of long-running work: a live bar on a terminal, a line every few seconds in a log file."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self

from rich.console import Console
from rich.progress import Progress, TextColumn

#: Minimum time between two lines in a log file.
LINE_EVERY_SECONDS = 15.0


class Counter:
    """Counts units of work and shows how many are done, the speed, and the time left."""

    def __init__(self, console: Console, name: str, total: int, *, done: int = 0) -> None:
        self.console, self.name, self.total = console, name, total
        #: Units that were done in an earlier run do not count towards the speed.
        self.done = self._before = done
        self._start = self._shown = time.perf_counter()
        self._num_tokens = 0
        figures = TextColumn("{task.completed}/{task.total} {task.fields[note]}")
        self._bar = Progress(*Progress.get_default_columns(), figures, console=console, transient=True)
        self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def advance(self, count: int = 1, note: str = "", *, num_tokens: int = 0) -> None:
        """Counts `count` more units, and tokens sampled for them; `note` is shown after the figures."""
        self.done += count
        self._num_tokens += num_tokens
        now = time.perf_counter()
        note = note or self._token_rate()
        speed = (self.done - self._before) / max(1e-9, now - self._start)
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self.done, note=f"{speed:.1f}/s {note}")
        elif now - self._shown > LINE_EVERY_SECONDS:
            self._shown, left = now, (self.total - self.done) / max(1e-9, speed)
            figures = f"{self.done}/{self.total} {speed:.1f}/s {left:.0f} s left {note}"
            self.console.print(f"{self.name}: {figures.rstrip()}")

    @contextlib.contextmanager
    def live(self) -> Iterator[Self]:
        """Shows the bar during the block, and a final line after it unless it raised an error."""
        with self._bar if self.console.is_terminal else contextlib.nullcontext():
            yield self
        seconds = time.perf_counter() - self._start
        text = f"{self.name}: {self.done}/{self.total} in {seconds:.1f} s {self._token_rate()}"
        self.console.print(text.rstrip())

    def _token_rate(self) -> str:
        seconds = time.perf_counter() - self._start
        return f"{self._num_tokens / seconds:.0f} tokens/s" if self._num_tokens else ""


@contextlib.contextmanager
def counters(console: Console) -> Iterator[Callable[..., None]]:
    """Yields `show(name, done, total, note="")`, which closes a counter at its total or at a new name."""
    current: Counter | None = None

    def show(name: str, done: int, total: int, note: str = "") -> None:
        nonlocal current
        if current is None or current.name != name:
            stack.close()
            current = stack.enter_context(Counter(console, name, total).live())
        current.advance(done - current.done, note)
        if done == total:
            stack.close()
            current = None

    with contextlib.ExitStack() as stack:
        yield show
