"""Files that appear whole or not at all, and JSONL that survives a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replace_file(path: Path, *, is_durable: bool = True, is_shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` in one step when the block ends without an error.

    Readers see the old file or the new one. `is_durable` waits until the content is on disk, so that it
    survives a power cut; without it a file still survives a kill. `is_shared` is for files that several
    processes may write at the same time; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name, so that the next write overwrites what a killed process left behind.
    owner = f".{os.uname().nodename}-{os.getpid()}" if is_shared else ""
    temporary = path.with_name(f".{path.name}{owner}.tmp")
    try:
        yield temporary
        if is_durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, is_durable: bool = True) -> None:
    """Replaces `path` by the bytes in one step (`replace_file`)."""
    with replace_file(path, is_durable=is_durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by the text in one step."""
    write_bytes(path, text.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replaces `path` by the lines in one step."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path, data: Any) -> None:
    """Replaces `path` by `data` as indented JSON in one step."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill, which replaces `path` when the block ends without an error.

    A kill between the two renames leaves the old content as `path` with the suffix `.old`.
    """
    temporary, old = (path.with_name(path.name + suffix) for suffix in (".tmp", ".old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if path.exists():
        # Not earlier: after a kill between the renames `.old` is the only copy.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def append_jsonl(path: Path, lines: Iterable[str]) -> None:
    """Appends lines of JSON and waits until they are on disk; a torn last line is cut first."""
    data = "".join(f"{line}\n" for line in lines).encode()
    if not data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _cut_torn_line(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a newline; an absent file has none."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [line for line in file if line.endswith(b"\n")]


def read_jsonl(path: Path) -> list[Any]:
    """The rows of a JSONL file of ours without a torn last line; an absent file has none."""
    return [json.loads(line) for line in whole_lines(path)]


def _cut_torn_line(file: Any) -> None:
    """Truncates an open binary file after its last newline."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
