"""What stops a run and what costs one record: faults of files, of the machine, and decoders that hang.

A disk or GPU that fails, fails for the next video too. Skipping records for it would empty the run.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import av
import cv2

from tempo.core.records import Record, Skipped
from tempo.engine.types import SkipRecord, Worker

T = TypeVar("T")

#: Errors of one file. All others (EIO, ESTALE, EMFILE, ENOTCONN ...) are of the disk or of this process.
FILE_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.ENODEV, errno.EOVERFLOW, errno.EFBIG, errno.ENOKEY),
)

#: Words by which torch's plain RuntimeError names the GPU or an allocator.
TORCH_FAULTS = ("CUDA", "CUBLAS", "cuDNN", "HIP error", "out of memory", "DefaultCPUAllocator")


class MachineFault(ValueError):
    """The machine failed, not the record; the message names what to do."""


def per_record(stage: str, function: Callable[[Any], Record]) -> Worker:
    """A worker that applies `function` to each record; a record on which it fails becomes a Skipped."""

    def worker(batch: Sequence[Any]) -> Sequence[Record]:
        return [attempt(stage, record, function) for record in batch]

    return worker


def attempt(stage: str, record: Record, function: Callable[[Any], T]) -> T | Skipped:
    """`function(record)`, or a Skipped of `stage` if the record is at fault; raises faults of the machine."""
    try:
        return function(record)
    except SkipRecord as skip:
        return Skipped(id=record.id, stage=stage, reason=skip.reason, detail=skip.detail)
    except Exception as error:
        # FFmpeg's errors are OSErrors too, but of the file.
        if isinstance(error, OSError | MachineFault) and not isinstance(error, av.error.FFmpegError):
            raise
        detail = f"{type(error).__name__}: {error}"
        if _is_of_memory_or_gpu(error):
            raise MachineFault(
                f"{stage}: memory or the GPU failed at {record.id}: {detail}. The record is not to blame and "
                "nothing is lost: free memory, then give the same command again"
            ) from error
        return Skipped(id=record.id, stage=stage, reason="cannot be processed", detail=detail)


def _is_of_memory_or_gpu(error: Exception) -> bool:
    if isinstance(error, cv2.error):
        return "Insufficient memory" in str(error)
    # By their words: most have no class of their own, and torch need not be imported.
    is_of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_FAULTS)
    return isinstance(error, MemoryError) or is_of_torch


def read_error(error: OSError, path: str | Path) -> SkipRecord | MachineFault:
    """The exception to raise for a file that cannot be read."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        check_in_place(path)
        return SkipRecord("no such file", str(path))
    if error.errno in FILE_ERRORS:
        return SkipRecord("cannot be opened", str(error))
    return MachineFault(
        f"{path} cannot be read: {error}. Nothing is lost: check the disk, or move the file away if only it "
        "is damaged, then give the same command again"
    )


def check_in_place(path: str | Path, roots: Iterable[str] = ()) -> None:
    """Raises MachineFault where a file is gone together with its folder, or with all files of one of `roots`.

    A disk that is no longer mounted takes its folders along, or leaves an empty one.
    """
    try:
        os.stat(path)
        return
    except (FileNotFoundError, NotADirectoryError):
        folder = Path(path).parent
    except (OSError, ValueError):
        # Raised again, and handled, by whoever reads the file.
        return
    above = [root for root in (Path(root).expanduser() for root in roots) if folder.is_relative_to(root)]
    if not folder.is_dir() or not all(root.is_dir() and any(root.iterdir()) for root in above):
        raise MachineFault(
            f"{path} is gone together with its folder. Is the disk of {folder} mounted? Nothing is lost: "
            "mount it and give the same command again. To go on without it, put any file into the folder"
        )


class Watchdog:
    """Notes when the decoder last made progress, and stops work that was given up at its next step."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._last: float | None = time.monotonic()
        self._is_given_up = False

    def tick(self) -> None:
        """Notes progress and starts the decoder's time anew; raises SkipRecord if the work was given up."""
        self._set(time.monotonic())

    def pause(self) -> None:
        """Stops the clock for work that is not the decoder's; raises SkipRecord if the work was given up."""
        self._set(None)

    def _set(self, last: float | None) -> None:
        if self._is_given_up:
            raise self.give_up()
        self._last = last

    def seconds_left(self) -> float:
        """How long the current step may still take; the full time while the clock is stopped."""
        last = self._last
        return self._timeout_seconds if last is None else last + self._timeout_seconds - time.monotonic()

    def give_up(self) -> SkipRecord:
        """Ends the work at its next step; returns the exception to raise."""
        self._is_given_up = True
        detail = f"no frame for {self._timeout_seconds:g} seconds (videos.timeout_seconds)"
        return SkipRecord("decoder hangs", detail)


def watched(work: Callable[[Watchdog], T], timeout_seconds: float) -> T:
    """What `work(watchdog)` returns or raises; SkipRecord("decoder hangs") if it makes no step in that time.

    The work runs in a thread, because a call into a library cannot be interrupted. A thread that hangs is
    left behind: it ends its work at the next tick, or with the process.
    """
    watchdog, result = Watchdog(timeout_seconds), Future[T]()
    # After a fork, threads of the parent are not alive.
    thread = next((one for one in iter(_next_idle, None) if one.is_alive()), None) or _Thread()
    thread.tasks.put((result, work, watchdog))
    while True:
        try:
            return result.result(timeout=max(0.0, watchdog.seconds_left()))
        except TimeoutError:
            # The work itself may have raised it, for a network drive for example.
            if result.done():
                return result.result()
            if watchdog.seconds_left() <= 0:
                raise watchdog.give_up() from None


#: Threads are reused: each new thread takes memory from another arena, half as much again in all.
_idle: list[_Thread] = []


def _next_idle() -> _Thread | None:
    return _idle.pop() if _idle else None


class _Thread(threading.Thread):
    """Does one task after the other and is idle in between. A daemon: it does not keep the process alive."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tasks: SimpleQueue[tuple[Future[Any], Callable[[Watchdog], Any], Watchdog]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self._do(*self.tasks.get())

    def _do(self, future: Future[Any], work: Callable[[Watchdog], Any], watchdog: Watchdog) -> None:
        try:
            value = work(watchdog)
        except BaseException as error:
            _idle.append(self)
            future.set_exception(error)
        else:
            _idle.append(self)
            future.set_result(value)
