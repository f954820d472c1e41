"""Rows of files that a user or another program wrote: JSONL, a JSON array, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tempo.core.errors import describe_error

M = TypeVar("M", bound=BaseModel)


def read_file(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file, each with its place ("line 3"), which error messages show.

    Raises ValueError that names `key` (a configuration key or a function), the file, and the bad line.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, key)
        return
    text = _read_text(path, f"{key}:").rstrip()
    if text.startswith("["):
        rows = _parse(text, key, str(path))
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(_lines(text), 1):
        yield f"line {number}", _parse(line, key, f"{path} line {number}")


def _read_text(path: Path, named: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{named} {path} cannot be read: {error}") from None


def _lines(text: str) -> list[str]:
    """Lines that end with a newline; str.splitlines would also split at U+2028 inside a text."""
    return text.removesuffix("\n").split("\n") if text else []


def _parse(text: str, key: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{key}: {place} is not valid JSON: {error}") from None


def _read_parquet(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def read_rows(path: Path, model: type[M], *, key: str) -> list[M]:
    """The rows of a JSONL file that somebody else wrote, one `model` per line.

    Raises ValueError that names the configuration `key`, the file, and the first line that does not fit.
    """
    lines = enumerate(_lines(_read_text(path, key)), 1)
    return [parse_row(model, line, f"{path} line {number}") for number, line in lines]


def parse_row(model: type[M], line: str | bytes, place: str) -> M:
    """The `model` that a line of JSON holds; raises ValueError that names the `place` of the line."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        faults = _describe_row(error, model)
        raise ValueError(f"{place} is not a valid {model.__name__.lower()}: {faults}") from None


def _describe_row(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a row: all missing keys together, every other fault by its key."""
    missing, faults = [], []
    for item in error.errors():
        if item["type"] == "missing":
            missing.append(".".join(map(str, item["loc"])))
        elif item["type"] == "model_type":
            faults.append("it should be an object of keys and values")
        elif item["loc"]:
            faults.append(describe_error(item, model))
        else:
            faults.append(item["msg"].removeprefix("Value error, "))
    return "; ".join([*([f"lacks {', '.join(missing)}"] if missing else []), *faults])
