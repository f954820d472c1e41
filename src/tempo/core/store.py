"""A run directory: rows of stages, skipped records with their reasons, markers of finished stages.

A row is on disk before the next batch starts, and a finished file is sorted by id and replaced in one step.
So a run that was killed and started again ends with the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tempo.core.files import append_jsonl, read_jsonl, whole_lines, write_json, write_lines, write_text
from tempo.core.records import Record, Skipped, Video
from tempo.core.row_files import parse_row

R = TypeVar("R", bound=Record)

SKIPPED = "skipped"


class RunStore:
    """The files of one run under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """The path of the rows of `name`."""
        return self.directory / f"{name}.jsonl"

    def read(self, name: str, record: type[R]) -> list[R]:
        """All complete rows of `name`, in file order; an absent file has none."""
        path = self.path(name)
        lines = enumerate(whole_lines(path), 1)
        return [parse_row(record, line, f"{path} line {number}") for number, line in lines]

    def append(self, name: str, rows: Iterable[Record]) -> None:
        """Adds rows durably (`append_jsonl`)."""
        append_jsonl(self.path(name), (row.model_dump_json() for row in rows))

    def handled_ids(self, stage: str) -> set[str]:
        """Ids for which `stage` has a row or a skipped record."""
        rows = {str(row["id"]) for row in read_jsonl(self.path(stage))}
        return rows | {row.id for row in self.read(SKIPPED, Skipped) if row.stage == stage}

    def is_done(self, stage: str) -> bool:
        """Whether `stage` was finished."""
        return self._marker(stage).exists()

    def fingerprint(self, stage: str) -> str | None:
        """The fingerprint under which `stage` was begun, None if it never was."""
        found = self._read_marker(stage).get("fingerprint")
        return str(found) if found else None

    def versions(self, stage: str) -> dict[str, str]:
        """The versions of the packages that made the rows of `stage`; empty if it was never begun."""
        return dict(self._read_marker(stage).get("versions", {}))

    def begin(self, stage: str, fingerprint: str, versions: Mapping[str, str] | None = None) -> None:
        """Writes the fingerprint before the first row, so that rows of two configurations never mix."""
        write_json(self._begun(stage), {"fingerprint": fingerprint, "versions": dict(versions or {})})

    def finish(self, stage: str, fingerprint: str, versions: Mapping[str, str] | None = None) -> None:
        """Sorts the rows of `stage` and the skipped records, each in one step, and writes the marker last."""
        self._sort(stage, ("id",))
        self._sort(SKIPPED, ("stage", "id", "reason"))
        write_json(self._marker(stage), {"fingerprint": fingerprint, "versions": dict(versions or {})})

    def forget(self, stage: str) -> None:
        """Removes the rows, skipped records and markers of `stage`."""
        # The marker first: a stage that is half removed must not count as done.
        self._marker(stage).unlink(missing_ok=True)
        self.path(stage).unlink(missing_ok=True)
        kept = [row for row in self.read(SKIPPED, Skipped) if row.stage != stage]
        if self.path(SKIPPED).exists():
            write_lines(self.path(SKIPPED), (row.model_dump_json() for row in kept))
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

    def _read_marker(self, stage: str) -> dict[str, Any]:
        for path in (self._marker(stage), self._begun(stage)):
            if path.exists():
                return dict(json.loads(path.read_text(encoding="utf-8")))
        return {}

    def _marker(self, stage: str) -> Path:
        return self.directory / "done" / f"{stage}.json"

    def _begun(self, stage: str) -> Path:
        return self.directory / "done" / f"{stage}.begun.json"

    def _sort(self, name: str, keys: tuple[str, ...]) -> None:
        path = self.path(name)
        if path.exists():
            rows = [(json.loads(line), line.decode().rstrip("\n")) for line in whole_lines(path)]
            rows.sort(key=lambda row: [row[0][key] for key in keys])
            write_lines(path, (line for _, line in rows))


def run_directory_error(directory: Path) -> str | None:
    """Why a directory is not the directory of a run, None if it is."""
    if not directory.exists():
        return f"{directory} does not exist"
    if not (directory / "config.toml").exists():
        return f"{directory} is no run of tempo: it has no config.toml"
    return None


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration that a run wrote into its directory, as plain data; empty if there is none."""
    path = directory / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes the configuration of a run, as plain data, into its directory."""
    import tomli_w

    write_text(directory / "config.toml", tomli_w.dumps(config))


def count_skipped(store: RunStore) -> dict[tuple[str, str], tuple[int, str]]:
    """For each stage and reason the number of skipped records and one example, named by its file."""
    paths = {video.id: video.path for video in store.read("videos", Video)}
    skipped = store.read(SKIPPED, Skipped)
    counts = Counter((row.stage, row.reason) for row in skipped)
    examples = {(row.stage, row.reason): f"{_file_name(row, paths)}: {row.detail}" for row in skipped}
    return {key: (counts[key], example) for key, example in examples.items()}


def _file_name(row: Skipped, paths: Mapping[str, str]) -> str:
    """The name of the video's file for a row whose id is a path, a video's id, or begins with one."""
    if row.stage == "videos":
        return Path(row.id).name
    name, slash, rest = row.id.partition("/")
    return f"{Path(paths[name]).name}{slash}{rest}" if name in paths else row.id
