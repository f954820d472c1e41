"""Where a training step's time goes, in seconds by name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Adds up seconds by name until `take`; on a GPU it waits for the work that was asked for."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time inside under `name`."""
        start = _now()
        yield
        self.add(name, _now() - start)

    def add(self, name: str, seconds: float) -> None:
        """Counts time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
