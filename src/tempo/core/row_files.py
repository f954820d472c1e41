"""Rows of files that somebody else wrote: JSONL, a JSON array, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_file(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file that the configuration names under `key`, each with its place in words.

    Raises ValueError that names key and file, and the line that is no JSON.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, key)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None
    if text.startswith("["):
        rows = _parse(text, key, str(path))
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    # Only a newline ends a row: str.splitlines would also cut at U+2028 and the like inside a text.
    for number, line in enumerate(text.split("\n") if text else [], 1):
        yield f"line {number}", _parse(line, key, f"{path} line {number}")


def _parse(text: str, key: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{key}: {place} is no JSON: {error}") from None


def _read_parquet(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{key}: {path} needs pyarrow: pip install '.[parquet]' in the checkout") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
