"""Atomic writes, safe appends to JSONL files, and reading users' files with errors that name the bad row."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


@contextlib.contextmanager
def replace_file(path: Path, *, is_durable: bool = True, is_shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path to write to; it replaces `path` atomically if the block ends without an error.

    Readers see either the old file or the new one. `is_durable` waits until the content is on disk, so that
    it survives a power failure. `is_shared` is for files that several processes may write at the same time;
    the last one wins.
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


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` with the bytes, atomically."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` with the text, atomically."""
    write_bytes(path, text.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replaces `path` with the lines, atomically."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path, data: Any) -> None:
    """Replaces `path` with `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; it replaces `path`, on disk, if the block ends without an error.

    If the process is killed between the two renames, the old content remains in `path` with suffix `.old`.
    """
    temporary, old = (path.with_name(path.name + suffix) for suffix in (".tmp", ".old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for written in temporary.rglob("*"):
        if written.is_file():
            with written.open("rb") as file:
                os.fsync(file.fileno())
    if path.exists():
        # Not earlier: after a kill between the two renames, `.old` may be the only copy.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def append_jsonl(path: Path, lines: Iterable[str]) -> None:
    """Appends lines of JSON and waits until they are on disk. Removes an incomplete last line first."""
    data = "".join(f"{line}\n" for line in lines).encode()
    if not data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a newline; empty for a missing file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [line for line in file if line.endswith(b"\n")]


def read_jsonl(path: Path) -> list[Any]:
    """The rows of a JSONL file of a run, ignoring an incomplete last line; empty for a missing file."""
    return [json.loads(line) for line in whole_lines(path)]


def read_file(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a user's JSONL, JSON or Parquet file, each with its place, such as "line 3".

    Raises ValueError that names `key` (a configuration key or a function), the file, and the bad line.
    """
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{key}: {path} cannot be read: {error}") from None
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    lines, place = _read_lines(path, f"{key}:"), str(path)
    try:
        if lines and lines[0].startswith("["):
            rows = json.loads("\n".join(lines))
            yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
            return
        for number, line in enumerate(lines, 1):
            place = f"{path} line {number}"
            yield f"line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{key}: {place} is not valid JSON: {error}") from None


def read_rows(path: Path, model: type[M], *, key: str) -> list[M]:
    """The rows of a user's JSONL file, one `model` per line.

    Raises ValueError that names the configuration `key`, the file, and the first line that does not fit.
    """
    lines = enumerate(_read_lines(path, key), 1)
    return [parse_row(model, line, f"{path} line {number}") for number, line in lines]


def _read_lines(path: Path, named: str) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{named} {path} cannot be read: {error}") from None
    # str.splitlines would also split at U+2028 inside a text.
    return text.split("\n") if text else []


def parse_row(model: type[M], line: str | bytes, place: str) -> M:
    """Parses a line of JSON as `model`; raises ValueError that names the `place` of the line."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        faults = "; ".join(describe_error(item, model) for item in error.errors())
        raise ValueError(f"{place} is not a valid {model.__name__.lower()}: {faults}") from None


def describe_error(error: Any, model: type[BaseModel]) -> str:
    """One item of `ValidationError.errors()` of `model` as text: the dotted key, the problem, the value."""
    kind, value, message = error["type"], error["input"], error["msg"].removeprefix("Value error, ")
    keys, section = _locate(error["loc"], model)
    # For a missing key, pydantic shows the whole section, which may be long or contain a secret.
    hidden = ("extra_forbidden", "value_error", "missing", "union_tag_not_found")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(keys[-1], section.model_fields, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        message = f"unknown key; {hint}known keys: {', '.join(section.model_fields)}"
    elif kind.startswith("union_tag"):
        keys.append(error["ctx"]["discriminator"].strip("'"))
        value = error["ctx"].get("tag")
        message = f"Input should be one of {error['ctx']['expected_tags']}" if value else "Field required"
    elif kind == "tuple_type":
        is_item = isinstance(value, str | int | float)
        message = "write a list" + (f": {json.dumps([value], ensure_ascii=False)}" if is_item else "")
    place = f"{'.'.join(keys)}: " if keys else ""
    return f"{place}{message}" + (f" (got {value!r})" if error["loc"] and kind not in hidden else "")


def _locate(location: tuple[Any, ...], model: Any) -> tuple[list[str], Any]:
    """The keys as the user wrote them, and the model that the last key belongs to."""
    keys, section, models = list[str](), model, [model]
    for part in location:
        if len(models) > 1 and isinstance(part, str):
            # For a union of models, pydantic adds the tag of the chosen model.
            tagged = [
                x for x in models if (part,) in (get_args(f.annotation) for f in x.model_fields.values())
            ]
            models = tagged or models
            continue
        keys.append(str(part))
        section = models[0]
        if part in section.model_fields:
            models = list(_models(section.model_fields[part].annotation)) or models
    return keys, section


def _models(annotation: Any) -> Iterator[Any]:
    """The models inside a type, such as `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
