"""Atomic writes, safe appends to JSONL files, and reading users' files with errors that name the bad row."""

import codecs
import contextlib
import difflib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, get_args

from pydantic import BaseModel, ValidationError

#: The share of bad rows that a user's file may have, by default.
MAX_BAD_SHARE = 0.05

#: How many bad rows a message names.
NUM_NAMED = 5

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


@contextlib.contextmanager
def replace_file(path: Path, *, is_durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path to write to; it replaces `path` atomically if the block ends without an error.

    Readers see either the old file or the new one. `is_durable` waits until the content is on disk, so that
    it survives a power failure. Only one process at a time may write a path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name, so that the next write overwrites what a killed process left behind.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        if is_durable:
            _sync(temporary)
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
    """Replaces `path` with the lines, atomically, one line in memory at a time."""
    with replace_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(f"{line}\n".encode() for line in lines)


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
            _sync(written)
    if path.exists():
        # Not earlier: after a kill between the two renames, `.old` may be the only copy.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until the content of a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def append_jsonl(path: Path, lines: Iterable[str], *, is_durable: bool = True) -> None:
    """Appends lines of JSON, which survive the process. Removes an incomplete last line first.

    `is_durable` waits until they are on disk, so that they survive a power failure.
    """
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
        if is_durable:
            os.fsync(file.fileno())


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that end with a newline, one in memory at a time; none for a missing file."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def count_lines(path: Path) -> int:
    """The number of lines that end with a newline; 0 for a missing file."""
    return sum(1 for _ in whole_lines(path))


def sort_lines(path: Path, key: Callable[[bytes], Any]) -> int:
    """Replaces `path` with its whole lines sorted by key, and returns their number; 0 for a missing file.

    Only the keys are in memory. The lines are on disk when the call returns.
    """
    if not path.exists():
        return 0
    places, offset = [], 0
    for line in whole_lines(path):
        places.append((key(line), offset))
        offset += len(line)
    # Rows are often in order already.
    if places == (ordered := sorted(places)) and offset == path.stat().st_size:
        _sync(path)
        return len(places)
    with replace_file(path) as temporary, path.open("rb") as old, temporary.open("wb") as new:
        for _, place in ordered:
            old.seek(place)
            new.write(old.readline())
    return len(places)


def read_jsonl(path: Path) -> list[Any]:
    """The rows of a JSONL file of a run, ignoring an incomplete last line; empty for a missing file."""
    return [json.loads(line) for line in whole_lines(path)]


@dataclass(frozen=True)
class UserFile(Generic[T]):
    """The rows of a user's file, and the faults of its bad rows; both by place, such as "line 3"."""

    path: Path
    key: str
    rows: dict[str, T]
    faults: dict[str, str]

    def check(self, max_bad_share: float) -> Self:
        """This file, with a warning that names its bad rows; raises ValueError if these are too many."""
        num_bad, num_rows = len(self.faults), len(self.faults) + len(self.rows)
        if not num_rows:
            raise ValueError(f"{self.key}: {self.path} has no rows")
        if num_bad:
            named = [f"{place}: {fault}" for place, fault in self.faults.items()]
            others = [f"and {num_bad - NUM_NAMED} more"] if num_bad > NUM_NAMED else []
            text = f"{self.key}: {self.path} {'; '.join(named[:NUM_NAMED] + others)}"
            text += f". {num_bad} of {num_rows} rows are bad"
            if num_bad > max_bad_share * num_rows:
                limit = f", or raise run.max_bad_share ({max_bad_share:g})" if max_bad_share else ""
                raise ValueError(f"{text}. Fix or remove them{limit}")
            _warn_once(f"{text} and are skipped")
        return self


@cache  # A run reads the same file at several stages.
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def read_user_file(path: Path, key: str, parse: Callable[[dict[str, Any]], T]) -> UserFile[T]:
    """What `parse` makes of the rows of a user's JSONL, JSON or Parquet file; call `check` on the result.

    Rows come without their null columns. A row is bad if it is not an object or if `parse` raises ValueError.
    Raises ValueError that names `key` and the file if the file cannot be read.
    """
    read = UserFile[T](path, key, {}, {})
    for place, content in _split_rows(path, key):
        try:
            row = _parse_json(content) if isinstance(content, bytes) else content
            if not isinstance(row, dict):
                raise ValueError(f"a row is an object of keys and values, got {str(row)[:60]!r}")
            # pandas writes null as NaN, which is not equal to itself.
            present = {name: value for name, value in row.items() if value is not None and value == value}
            read.rows[place] = parse(present)
        except ValueError as error:
            read.faults[place] = str(error)
    return read


def _split_rows(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file with their places: values, or for JSONL the bytes of each line that is not blank."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            return _count("row", pyarrow.parquet.read_table(path).to_pylist())
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None
    try:
        whole = _parse_json(data)
    except ValueError as error:
        if path.suffix == ".json" and data.lstrip().startswith(b"["):
            raise ValueError(f"{key}: {path} is {error}") from None
        # Not splitlines, which also splits at U+2028 inside a text.
        return ((place, line) for place, line in _count("line", data.split(b"\n")) if line.strip())
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    return _count("row", whole) if isinstance(whole, list) else _count("line", [whole])


def _count(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name} {number}", row) for number, row in enumerate(rows, 1))


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which a file or a request cannot contain."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _parse_json(data: bytes) -> Any:
    """Parses JSON, with lone surrogates replaced."""
    try:
        value = json.loads(data.decode())
        if b"\\ud" in data.lower():
            value = json.loads(replace_surrogates(json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    return value


def validate_row(model: type[M], row: Any) -> M:
    """The row as `model`; raises ValueError that describes all its faults."""
    try:
        return model.model_validate(row)
    except ValidationError as error:
        raise ValueError(_describe(error, model)) from None


def parse_row(model: type[M], line: str | bytes, place: str) -> M:
    """Parses a line of JSON as `model`; raises ValueError that names the `place` of the line."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        name = model.__name__.lower()
        raise ValueError(f"{place} is not a valid {name}: {_describe(error, model)}") from None


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    return "; ".join(describe_error(item, model) for item in error.errors())


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
