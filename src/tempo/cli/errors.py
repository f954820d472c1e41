"""Messages and exit codes for bad input, a full disk, Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from rich.console import Console

from tempo.engine.ranks import num_processes

#: Exit codes of Ctrl-C and of SIGTERM: 128 plus the number of the signal.
INTERRUPTED, TERMINATED = 130, 143

#: No space, quota exceeded, file too large.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Terminated(BaseException):
    """Raised on SIGTERM, which `kill` and batch systems send."""


def fail(text: str) -> NoReturn:
    """Ends the process with one message and exit code 2."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {text}", style="red", markup=False)
    sys.exit(2)


def stop(error: BaseException, *, can_resume: bool) -> NoReturn:
    """Ends the process after Ctrl-C or SIGTERM with a message about what is kept."""
    kept = "run the same command again to resume" if can_resume else "nothing was written"
    Console(stderr=True).print(f"\nstopped; {kept}")
    sys.exit(TERMINATED if isinstance(error, Terminated) else INTERRUPTED)


def machine_fault(error: Exception) -> str:
    """The message for a failure of the disk or memory; empty for other errors, which need their traceback."""
    text = str(error) or type(error).__name__
    # Rust libraries (safetensors, tokenizers) give the error number only in the text.
    found = re.search(r"\(os error (\d+)\)", text)
    number = int(found[1]) if found else getattr(error, "errno", None)
    # torch's messages on the CPU and the GPU.
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return f"there is not enough memory ({text}). Free some memory, then run the same command again"
    if number in DISK_FULL:
        return f"the disk is full ({text}). Free some space, then run the same command again"
    return text if found or isinstance(error, OSError) else ""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turns SIGTERM into Terminated, so that a run stops its processes and prints how to resume.

    With several processes the default is kept: a process may be waiting for another one in a call that no
    exception can interrupt.
    """

    def terminate(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, terminate if num_processes() == 1 else before)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
