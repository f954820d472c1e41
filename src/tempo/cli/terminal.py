"""What commands share: options, the console, and messages and exit codes for errors and Ctrl-C."""

import contextlib
import errno
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from tempo.engine.ranks import num_processes

ConfigArgument = Annotated[Path, typer.Argument(help="configuration file in TOML; `tempo init` writes one")]
RunArgument = Annotated[Path, typer.Argument(help="run directory")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="section.key=value", help="override a value, in TOML syntax; may be repeated"
    ),
]

#: Exit codes of Ctrl-C and of SIGTERM: 128 plus the number of the signal.
INTERRUPTED, TERMINATED = 130, 143


def console() -> Console:
    """The console for output. Markup is off: file names and FFmpeg's messages may contain brackets."""
    return Console(highlight=False, soft_wrap=True, markup=False)


def check_output(path: Path | None) -> None:
    """Raises ValueError if a file of results cannot be written, before any work."""
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"{path} cannot be written. Choose a file in a folder that exists")


class Terminated(BaseException):
    """Raised on SIGTERM, which `kill` and batch systems send."""


@contextlib.contextmanager
def readable_errors(*, can_resume: bool) -> Iterator[None]:
    """Turns an error in the block into one message and an exit code.

    The code is 2 for bad input, a full disk or too little memory, 130 for Ctrl-C and 143 for SIGTERM. For
    these two, the message says how to resume if `can_resume`, or else that nothing was written. Other errors
    keep their traceback.
    """
    err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        with terminable():
            yield
    except (KeyboardInterrupt, typer.Abort, Terminated) as error:
        kept = "run the same command again to resume" if can_resume else "nothing was written"
        err.print(f"\nstopped; {kept}")
        sys.exit(TERMINATED if isinstance(error, Terminated) else INTERRUPTED)
    except Exception as error:
        # A wrong command line. The class is not checked, as typer has its own copy of click's errors.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
        elif text := str(error) if isinstance(error, ValueError) else machine_fault(error):
            err.print(f"error: {text}", style="red")
        else:
            raise
        sys.exit(2)


def machine_fault(error: Exception) -> str:
    """The message for a failure of the disk or memory; empty for other errors, which need their traceback."""
    text = str(error) or type(error).__name__
    # Rust libraries (safetensors, tokenizers) give the error number only in the text, SQLite only words.
    found = re.search(r"\(os error (\d+)\)", text)
    number = int(found[1]) if found else getattr(error, "errno", None)
    # torch's messages on the CPU and the GPU.
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        advice = "Free some memory and run the same command again, or use settings that `tempo plan` names"
        return f"there is not enough memory ({text}). {advice}"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "disk is full" in text:
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
