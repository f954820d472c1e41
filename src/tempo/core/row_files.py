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
        import pyarrow
        from pyarrow.parquet import read_table

        try:
            rows = read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{key}: {path} cannot be read: {error}") from None
    else:
        lines = _read_lines(path, f"{key}:")
        if not lines or not lines[0].startswith("["):
            for number, line in enumerate(lines, 1):
                yield f"line {number}", _parse(line, key, f"{path} line {number}")
            return
        rows = _parse("\n".join(lines), key, str(path))
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def read_rows(path: Path, model: type[M], *, key: str) -> list[M]:
    """The rows of a JSONL file that somebody else wrote, one `model` per line.

    Raises ValueError that names the file and the first line that does not fit, or `key` if it cannot be read.
    """
    lines = enumerate(_read_lines(path, key), 1)
    return [parse_row(model, line, f"{path} line {number}") for number, line in lines]


def _read_lines(path: Path, named: str) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{named} {path} cannot be read: {error}") from None
    # Not str.splitlines, which would also split at U+2028 inside a text.
    return text.split("\n") if text else []


def _parse(text: str, key: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{key}: {place} is not valid JSON: {error}") from None


def parse_row(model: type[M], line: str | bytes, place: str) -> M:
    """The `model` that a line of JSON holds; raises ValueError that names the `place` of the line."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        missing = [".".join(map(str, item["loc"])) for item in error.errors() if item["type"] == "missing"]
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        for item in error.errors():
            if item["type"] == "model_type":
                faults.append("it should be an object of keys and values")
            elif item["type"] != "missing":
                message = item["msg"].removeprefix("Value error, ")
                faults.append(describe_error(item, model) if item["loc"] else message)
        text = "; ".join(faults)
        raise ValueError(f"{place} is not a valid {model.__name__.lower()}: {text}") from None
