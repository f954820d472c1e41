"""Whose fault an error is: a record's, which is then set aside, or the machine's, which stops the run.

A GPU or a disk that fails, fails for the next video too: setting aside what is in hand would empty the run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2

from tempo.core.records import Record, Skipped
from tempo.engine.types import SkipRecord

T = TypeVar("T")

#: What is wrong with one file. Any other (EIO, ESTALE, EMFILE, ENOTCONN ...) is of the disk or this process.
OF_A_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.ENODEV, errno.EOVERFLOW, errno.EFBIG, errno.ENOKEY),
)

#: How torch names the GPU or an allocator in a plain RuntimeError.
OF_TORCH = ("CUDA", "CUBLAS", "cuDNN", "HIP error", "out of memory", "DefaultCPUAllocator")


class MachineFault(ValueError):
    """The machine failed, no record is to blame; the message says what to do."""


def attempt(stage: str, record: Record, function: Callable[[Any], T]) -> T | Skipped:
    """`function(record)`, or a Skipped of `stage` where it fails on this record; raises what the machine did."""
    try:
        return function(record)
    except SkipRecord as dropped:
        return Skipped(id=record.id, stage=stage, reason=dropped.reason, detail=dropped.detail)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        if _stops_the_run(error):
            raise
        if _is_of_memory_or_gpu(error):
            raise MachineFault(
                f"{stage}: memory or the GPU failed at {record.id}, which is not to blame: {detail}. Nothing "
                "is lost: make room, then give the same command again"
            ) from error
        return Skipped(id=record.id, stage=stage, reason="cannot be processed", detail=detail)


def read_error(error: OSError, path: str | Path) -> SkipRecord | MachineFault:
    """What to raise for a file that cannot be read."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        check_in_place(path)
        return SkipRecord("no such file", str(path))
    if error.errno in OF_A_FILE:
        return SkipRecord("cannot be opened", str(error))
    return MachineFault(
        f"{path} cannot be read: {error}. Nothing is lost: see to the disk, or take the file away if only "
        "it is damaged, then give the same command again"
    )


def check_in_place(path: str | Path, roots: Iterable[str] = ()) -> None:
    """Raises MachineFault where not a file went but its folder did, or all that was in that one of `roots`.

    A disk that is no longer mounted takes the folders along, or leaves one that is empty.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        folder = Path(path).parent
        above = [root for root in map(_expanded, roots) if folder.is_relative_to(root)]
        if folder.is_dir() and all(map(_holds_anything, above)):
            return
    except (OSError, ValueError):
        # Who reads it says so.
        return
    else:
        return
    raise MachineFault(
        f"{path} is gone, and so is all that was with it: is the disk of {folder} mounted? Nothing is lost: "
        "bring it back and give the same command again; to go on without, put a folder with any file there"
    )


def _expanded(root: str) -> Path:
    return Path(root).expanduser()


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _stops_the_run(error: Exception) -> bool:
    """Whether it says itself that it is no fault of a record: a full disk, say."""
    # FFmpeg's errors are OSErrors as well, and of the file.
    is_of_file = isinstance(error, av.error.FFmpegError)
    return isinstance(error, OSError | MachineFault) and not is_of_file


def _is_of_memory_or_gpu(error: Exception) -> bool:
    if isinstance(error, cv2.error):
        return "Insufficient memory" in str(error)
    if isinstance(error, MemoryError):
        return True
    # Told by their words: torch need not be imported for them, and most have no class of their own.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OF_TORCH)
