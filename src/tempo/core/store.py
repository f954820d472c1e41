"""A run directory: durable records, dropped records with their reasons, done markers.

A row is on disk before the next batch starts, a torn last line is cut when the file is read again, and a
finished file is sorted by id and replaced in one step, so a run that was killed ends in the same bytes as
one that was not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from tempo.core.errors import describe_error
from tempo.core.records import Record, Skipped

R = TypeVar("R", bound=Record)

SKIPPED = "skipped"


class RunStore:
    """The files of one run under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where the rows of `name` lie."""
        return self.directory / f"{name}.jsonl"

    def read(self, name: str, record: type[R]) -> list[R]:
        """All whole rows of `name`, in file order; an absent file has none."""
        path = self.path(name)
        if not path.exists():
            return []
        with path.open("rb") as file:
            whole = [line for line in file if line.endswith(b"\n")]
        return [_parse(record, line, f"{path} line {number}") for number, line in enumerate(whole, 1)]

    def append(self, name: str, rows: Iterable[Record]) -> None:
        """Adds rows durably, after cutting a line that a kill left torn."""
        path = self.path(name)
        data = "".join(row.model_dump_json() + "\n" for row in rows).encode()
        if not data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            _cut_torn_line(file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def handled_ids(self, stage: str) -> set[str]:
        """Ids that `stage` has a row or a drop for."""
        rows = {row.id for row in self.read(stage, _AnyRecord)}
        return rows | {drop.id for drop in self.read(SKIPPED, Skipped) if drop.stage == stage}

    def is_done(self, stage: str) -> bool:
        """Whether `stage` was finished."""
        return self._marker(stage).exists()

    def fingerprint(self, stage: str) -> str | None:
        """The fingerprint under which `stage` was begun, None if it never was."""
        for path in (self._marker(stage), self._begun(stage)):
            if path.exists():
                return str(json.loads(path.read_text())["fingerprint"])
        return None

    def begin(self, stage: str, fingerprint: str) -> None:
        """Notes the fingerprint before the first row, so that rows of two configurations never mix."""
        write_json(self._begun(stage), {"fingerprint": fingerprint})

    def finish(self, stage: str, fingerprint: str) -> None:
        """Sorts the rows of `stage` and the drops, each file in one step, and writes the marker last."""
        for name, key in ((stage, _row_key), (SKIPPED, _drop_key)):
            if self.path(name).exists():
                self._sort(name, key)
        write_json(self._marker(stage), {"fingerprint": fingerprint})

    def forget(self, stage: str) -> None:
        """Removes the rows, drops and markers of `stage`."""
        # The marker first: a stage that is half forgotten must not count as done.
        self._marker(stage).unlink(missing_ok=True)
        self.path(stage).unlink(missing_ok=True)
        kept = [drop for drop in self.read(SKIPPED, Skipped) if drop.stage != stage]
        if self.path(SKIPPED).exists():
            write_lines(self.path(SKIPPED), (drop.model_dump_json() for drop in kept))
        self._begun(stage).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory; raises ValueError if another process holds it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = (self.directory / ".lock").open("w")
        except OSError as error:
            raise ValueError(f"{self.directory} cannot be the directory of a run: {error}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.directory} is in use by another tempo run; wait for it or use another directory"
                ) from None
            yield

    def _marker(self, stage: str) -> Path:
        return self.directory / "done" / f"{stage}.json"

    def _begun(self, stage: str) -> Path:
        return self.directory / "done" / f"{stage}.begun.json"

    def _sort(self, name: str, key: Any) -> None:
        with self.path(name).open("rb") as file:
            lines = [line for line in file if line.endswith(b"\n")]
        lines.sort(key=lambda line: key(json.loads(line)))
        write_lines(self.path(name), (line.decode().rstrip("\n") for line in lines))


class _AnyRecord(Record):
    model_config = ConfigDict(frozen=True, extra="ignore")


def read_rows(path: Path, record: type[R], *, key: str) -> list[R]:
    """The rows of a JSONL file that somebody else wrote.

    Raises ValueError that names the configuration `key`, the file, and the first line that is no such record.
    """
    try:
        # Only a newline ends a row: str.splitlines would also cut at U+2028 and the like inside a text.
        text = path.read_bytes().decode("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key} {path} cannot be read: {error}") from None
    lines = text.split("\n") if text else []
    return [_parse(record, line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _parse(record: type[R], line: str | bytes, place: str) -> R:
    """The record of a line; raises ValueError that names the place."""
    try:
        return record.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(f"{place} is no {record.__name__.lower()}: {_faults(error, record)}") from None


def _faults(error: ValidationError, record: type[Record]) -> str:
    """What a line is not, in plain words: the keys that it lacks together, every other fault by its key."""
    lacks, said = [], []
    for item in error.errors():
        if item["type"] == "missing":
            lacks.append(".".join(map(str, item["loc"])))
        elif item["type"] == "model_type":
            said.append("it should be an object of keys and values")
        elif item["loc"]:
            said.append(describe_error(item, record))
        else:
            said.append(item["msg"].removeprefix("Value error, "))
    return "; ".join([*([f"lacks {', '.join(lacks)}"] if lacks else []), *said])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replaces `path` by the lines in one step: readers see the old file or the new one, never half."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path, data: Any) -> None:
    """Replaces `path` by `data` as indented JSON in one step."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a killed process left is overwritten. One process writes here at a time.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _cut_torn_line(file: Any) -> None:
    """Truncates an open binary file after its last newline."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)


def _row_key(row: Any) -> Any:
    return row["id"]


def _drop_key(row: Any) -> Any:
    return row["stage"], row["id"], row["reason"]
