"""SIGTERM ends a run as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

from tempo.engine.ranks import num_processes


class Terminated(BaseException):
    """SIGTERM came: by `kill`, which stops a run in the background, or from a batch system."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises Terminated, so that a run ends what it started and can say how to go on.

    Not in one of several processes: where one waits for another, in a call that hears no signal, it must end.
    """
    if num_processes() > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: Any) -> NoReturn:
    raise Terminated
