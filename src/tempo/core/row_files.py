"""Rows of files that somebody else wrote: JSONL, a JSON array, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_file(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file, each with its place ("line 3"), which error messages show.

    Raises ValueError that names `key` (a configuration key or a function), the file, and the bad line.
    """
    if path.suffix == ".parquet":
        rows = _read_parquet(path, key)
    else:
        try:
            text = path.read_bytes().decode("utf-8-sig").rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{key}: {path} cannot be read: {error}") from None
        if not text.startswith("["):
            # Only a newline ends a row: str.splitlines would also split at U+2028 within a text.
            for number, line in enumerate(text.split("\n") if text else [], 1):
                yield f"line {number}", _parse(line, key, f"{path} line {number}")
            return
        rows = _parse(text, key, str(path))
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _parse(text: str, key: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{key}: {place} is not valid JSON: {error}") from None


def _read_parquet(path: Path, key: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None
