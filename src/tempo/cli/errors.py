"""How a command fails: in words that say what to do."""

from __future__ import annotations

import errno
import re
import sys
from typing import NoReturn

from rich.console import Console

#: No space, quota used up, file larger than allowed.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: How torch says that there is no memory, of the CPU and of a GPU.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


def fail(text: str) -> NoReturn:
    """Ends the process with one message and exit code 2."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {text}", style="red", markup=False)
    sys.exit(2)


def machine_fault(error: Exception) -> str:
    """What to say where disk or memory failed; empty for any other error, which deserves its traceback."""
    text = str(error) or type(error).__name__
    # What is written in Rust (safetensors, tokenizers) says in words alone what the system said.
    said = re.search(r"\(os error (\d+)\)", text)
    number = int(said[1]) if said else getattr(error, "errno", None)
    again = "then give the same command again"
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return f"there is not enough memory ({text}); make room, {again}"
    if number in DISK_FULL:
        return f"the disk is full ({text}); free some space, {again}"
    return text if said or isinstance(error, OSError) else ""
