"""Which errors stop a run, and which only skip a record.

If the disk, memory or GPU fails for one record, it will fail for the next one too, so the run stops and can
be resumed later. After a damaged file or a decoder that hangs, only that record is skipped.
"""

from __future__ import annotations

import errno
import itertools
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2

from tempo.core.records import Record, Skipped
from tempo.engine.types import SkipRecord, Worker

T = TypeVar("T")

#: Errors that concern one file. Others (EIO, ESTALE, EMFILE ...) concern the disk or this process.
FILE_ERRORS = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)

#: Messages of torch and OpenCV when the GPU or an allocator fails; few of these errors have their own class.
MACHINE_ERRORS = re.compile("CUDA|CUBLAS|cuDNN|HIP error|out of memory|CPUAllocator|Insufficient memory")

#: How many items are handed over at a time: a switch between threads costs up to 36 microseconds. Only a few,
#: because they may be frames at full size. Slow items are handed over earlier.
NUM_AHEAD, MAX_WAIT_SECONDS = 4, 0.1


def per_record(stage: str, function: Callable[[Any], Record | Sequence[Record]]) -> Worker:
    """A worker that applies `function` to each record; a record for which it fails becomes Skipped."""
    return lambda batch: [attempt(stage, record, function) for record in batch]


def attempt(stage: str, record: Record, function: Callable[[Any], T]) -> T | Skipped:
    """`function(record)`, or a Skipped of `stage` if the record caused an error.

    Raises OSError if the disk fails, ValueError if memory or the GPU fails.
    """
    try:
        return function(record)
    except SkipRecord as skip:
        facts = {"reason": skip.reason, "detail": skip.detail, "is_only_reason": skip.is_only_reason}
        return Skipped(id=record.id, stage=stage, **facts)
    except Exception as error:
        # FFmpeg's errors are OSErrors too, but they concern the file.
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
            raise
        detail = f"{type(error).__name__}: {error}"
        is_named = isinstance(error, RuntimeError | cv2.error) and MACHINE_ERRORS.search(detail)
        if is_named or isinstance(error, MemoryError):
            raise ValueError(
                f"{stage}: memory or the GPU failed at {record.id}: {detail}. Nothing is lost. Free some "
                "memory, then run the same command again"
            ) from error
        return Skipped(id=record.id, stage=stage, reason="cannot be processed", detail=detail)


def check_file(path: str | Path) -> None:
    """Raises SkipRecord if a file is missing, unreadable or empty, and OSError if the disk fails.

    Call it before FFmpeg opens a file: FFmpeg reports damaged files and failing disks in the same way.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise SkipRecord("empty file", str(path))
    except (FileNotFoundError, NotADirectoryError):
        # A disk that is no longer mounted leaves no folder, or an empty one.
        if path.parent.is_dir() and any(path.parent.iterdir()):
            raise SkipRecord("no such file", str(path)) from None
        text = (
            "the folder is missing or empty. Check that its disk is mounted, then run the same command again"
        )
        raise OSError(errno.ENOENT, text, str(path)) from None
    except OSError as error:
        if error.errno not in FILE_ERRORS:
            raise
        raise SkipRecord("cannot be opened", str(error)) from None


def watched(items: Iterator[T], timeout_seconds: float, *, num_ahead: int = NUM_AHEAD) -> Iterator[T]:
    """The items of an iterator, which runs in a thread, at most `num_ahead` items ahead.

    Raises SkipRecord("decoder hangs") if the next item takes too long.
    """
    asked, answers = queue.SimpleQueue[bool](), queue.SimpleQueue[Any]()

    def run() -> None:
        while asked.get():
            found, failure = list[T](), None
            end = time.monotonic() + min(MAX_WAIT_SECONDS, timeout_seconds / 4)
            try:
                for item in itertools.islice(items, num_ahead):
                    found.append(item)
                    if time.monotonic() > end:
                        break
            except BaseException as error:
                failure = error
            answers.put((found, failure))

    # In a thread, because a call into a library cannot be interrupted. A thread that hangs ends when the call
    # returns or, as a daemon, with the process.
    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            asked.put(True)
            found, failure = answers.get(timeout=timeout_seconds)
            yield from found
            if failure:
                raise failure
            if not found:
                return
    except queue.Empty:
        detail = f"no frame for {timeout_seconds:g} seconds (videos.timeout_seconds)"
        raise SkipRecord("decoder hangs", detail) from None
    finally:
        asked.put(False)
