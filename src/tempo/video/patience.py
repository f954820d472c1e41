"""A decoder that hangs holds up one video, not the run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from tempo.engine.types import SkipRecord

T = TypeVar("T")

#: Called at every step forward; may raise SkipRecord.
Beat: TypeAlias = Callable[[], None]


class Pulse:
    """When the decoder last moved on, and whether the work was given up."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: float | None = time.monotonic()
        self._given_up = False

    def beat(self) -> None:
        """Notes a step forward, and that what follows is the decoder's time; raises SkipRecord if given up."""
        self._check()
        self._last = time.monotonic()

    def rest(self) -> None:
        """Notes that what follows may take as long as it takes; raises SkipRecord if given up."""
        self._check()
        self._last = None

    def _check(self) -> None:
        if self._given_up:
            raise self.dropped()

    def give_up(self) -> None:
        """Stops the work at its next step, if it ever takes one."""
        self._given_up = True

    def left_seconds(self) -> float:
        """How much longer the next step may take at least."""
        last = self._last
        return self._seconds if last is None else last + self._seconds - time.monotonic()

    def dropped(self) -> SkipRecord:
        detail = f"no picture for {self._seconds:g} seconds (videos.timeout_seconds)"
        return SkipRecord("decoder hangs", detail)


class _Thread(threading.Thread):
    """Does one work after the other, and is idle in between."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[Pulse], Any], Pulse]] = SimpleQueue()
        self.start()

    def begin(self, outcome: Future[Any], work: Callable[[Pulse], Any], pulse: Pulse) -> None:
        """Has what `work` returns or raises come out of `outcome`."""
        self._tasks.put((outcome, work, pulse))

    def run(self) -> None:
        while True:
            self._fulfil(*self._tasks.get())

    def _fulfil(self, outcome: Future[Any], work: Callable[[Pulse], Any], pulse: Pulse) -> None:
        try:
            result = work(pulse)
        except BaseException as error:
            _idle.append(self)
            outcome.set_exception(error)
        else:
            _idle.append(self)
            outcome.set_result(result)


#: A new thread for each video would get its memory from another arena each time, and keep what it frees: half
#: as much again.
_idle: list[_Thread] = []


def with_patience(work: Callable[[Pulse], T], seconds: float) -> T:
    """What `work(pulse)` returns or raises; SkipRecord("decoder hangs") if it takes no step in `seconds`.

    The work runs in a thread, since nothing else gets out of a call into a library that does not return. That
    thread is left behind: it is free again at its next beat, or ends with the process.
    """
    pulse, outcome = Pulse(seconds), Future[T]()
    _idle_thread().begin(outcome, work, pulse)
    while True:
        try:
            return outcome.result(timeout=max(0.0, pulse.left_seconds()))
        except TimeoutError:
            # Its own TimeoutError, of a network drive say, is not ours.
            if outcome.done():
                return outcome.result()
            if pulse.left_seconds() <= 0:
                pulse.give_up()
                raise pulse.dropped() from None


def _idle_thread() -> _Thread:
    """The one that was idle last, or a new one."""
    with contextlib.suppress(IndexError):
        # After a fork those of the parent are not there.
        while not (thread := _idle.pop()).is_alive():
            pass
        return thread
    return _Thread()
