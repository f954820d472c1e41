"""A run directory: rows of stages, skipped records with their reasons, markers of finished stages.

Rows are flushed to disk batch by batch, and a finished file is sorted by id and replaced atomically. So the
files of a run that was killed and restarted are byte-identical to those of a run that was not.
"""

import contextlib
import fcntl
import json
import math
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tempo.core import files
from tempo.core.records import Record, Review, Skipped, Video, file_of

R = TypeVar("R", bound=Record)

#: The id at the start of a row. Records have it as their first field.
_ID = re.compile(rb'\{"id": ?("(?:[^"\\]|\\.)*")')

SKIPPED = "skipped"

#: The file with the user's decisions on pairs; no stage writes or removes it.
REVIEWS = "reviews"


class Rows(Mapping[str, R]):
    """The rows of a file by id, in file order. A row is read from disk when it is asked for.

    Only ids and positions are in memory, so that runs with very many videos need little of it.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path, self._record = path, record
        self._places: dict[str, int] = {}
        offset = 0
        for line in files.whole_lines(path):
            self._places[_row_id(line)] = offset
            offset += len(line)

    def __getitem__(self, name: str) -> R:
        place = self._places[name]
        with self._path.open("rb") as file:
            file.seek(place)
            return files.parse_row(self._record, file.readline(), f"{self._path}: row {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class RunStore:
    """The files of one run under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: When `append` last waited for the disk.
        self._synced_at = -math.inf

    def path(self, name: str) -> Path:
        """The path of the file with the rows of `name`."""
        return self.directory / f"{name}.jsonl"

    def read(self, name: str, record: type[R]) -> list[R]:
        """All complete rows of `name`, in file order; empty for a missing file."""
        return [*self.stream(name, record)]

    def stream(self, name: str, record: type[R]) -> Iterator[R]:
        """Like `read`, with one row in memory at a time."""
        for number, line in enumerate(files.whole_lines(path := self.path(name)), 1):
            yield files.parse_row(record, line, f"{path} line {number}")

    def rows(self, name: str, record: type[R]) -> Rows[R]:
        """All complete rows of `name` by id, read from disk one by one; empty for a missing file."""
        return Rows(self.path(name), record)

    def count(self, name: str) -> int:
        """The number of complete rows of `name`; that of a finished stage is in its marker."""
        known = self._read_marker(name).get("num_rows")
        return files.count_lines(self.path(name)) if known is None else int(known)

    def append(self, name: str, rows: Iterable[Record]) -> None:
        """Appends rows, and skipped records to a separate file. They survive if the process is killed.

        A power failure may cost those of the last second, because waiting for the disk takes milliseconds.
        """
        rows, now = list(rows), time.monotonic()
        if is_durable := now - self._synced_at >= 1:
            self._synced_at = now
        for file, is_skipped in ((name, False), (SKIPPED, True)):
            chosen = (row for row in rows if isinstance(row, Skipped) == is_skipped)
            lines = (row.model_dump_json() for row in chosen)
            files.append_jsonl(self.path(file), lines, is_durable=is_durable)

    def handled_ids(self, stage: str) -> set[str]:
        """The ids for which `stage` has a row or a skipped record."""
        skipped = (row.id for row in self.stream(SKIPPED, Skipped) if row.stage == stage)
        return {*self.rows(stage, Record), *skipped}

    def reviews(self) -> dict[str, Review]:
        """The last review of each reviewed pair, by id."""
        return {review.id: review for review in self.stream(REVIEWS, Review)}

    def is_done(self, stage: str) -> bool:
        """Whether `stage` is finished."""
        return self._marker(stage).exists()

    def fingerprint(self, stage: str) -> str | None:
        """The fingerprint with which `stage` was started; None if it was not started."""
        return self._read_marker(stage).get("fingerprint")

    def versions(self, stage: str) -> dict[str, str]:
        """The package versions that `stage` was run with; empty if it was not started."""
        return dict(self._read_marker(stage).get("versions", {}))

    def begin(self, stage: str, fingerprint: str, versions: Mapping[str, str] | None = None) -> None:
        """Writes the fingerprint before the first row, so that rows of two configurations never mix."""
        marker = {"fingerprint": fingerprint, "versions": dict(versions or {})}
        files.write_json(self._marker(f"{stage}.begun"), marker)

    def finish(self, stage: str, fingerprint: str, versions: Mapping[str, str] | None = None) -> None:
        """Sorts the rows of `stage` and the skipped records, each atomically, and writes the marker last."""
        num_rows = files.sort_lines(self.path(stage), _row_id)
        key = itemgetter("stage", "id", "reason")
        files.sort_lines(self.path(SKIPPED), lambda line: key(json.loads(line)))
        marker = {"fingerprint": fingerprint, "versions": dict(versions or {}), "num_rows": num_rows}
        files.write_json(self._marker(stage), marker)

    def forget(self, stage: str) -> None:
        """Removes the rows, skipped records and markers of `stage`."""
        # The marker first: a stage that is only partly removed must not count as done.
        self._marker(stage).unlink(missing_ok=True)
        self.path(stage).unlink(missing_ok=True)
        if self.path(SKIPPED).exists():
            kept = (row for row in self.stream(SKIPPED, Skipped) if row.stage != stage)
            files.write_lines(self.path(SKIPPED), (row.model_dump_json() for row in kept))
        self._marker(f"{stage}.begun").unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the directory during the block; raises ValueError if another process has a lock on it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = (self.directory / ".lock").open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"{self.directory} is in use by another tempo run. Wait for it, or use another directory"
            raise ValueError(text) from None
        except OSError as error:
            raise ValueError(f"{self.directory} cannot be used as a run directory: {error}") from None
        with file:
            yield

    def _marker(self, name: str) -> Path:
        return self.directory / "done" / f"{name}.json"

    def _read_marker(self, stage: str) -> dict[str, Any]:
        for path in (self._marker(stage), self._marker(f"{stage}.begun")):
            if path.exists():
                return dict(json.loads(path.read_text(encoding="utf-8")))
        return {}


def _row_id(line: bytes) -> str:
    """The id of a row, read without the rest of the row; raises ValueError for a damaged line."""
    if not (found := _ID.match(line)):
        raise ValueError(f"a row of the run is damaged, because it does not begin with an id: {line[:80]!r}")
    # Only ids with escapes need the parser, which is ten times slower.
    return str(json.loads(found[1])) if b"\\" in found[1] else found[1][1:-1].decode()


def check_run_directory(directory: Path) -> None:
    """Raises ValueError if `directory` is not a run directory."""
    if not (directory / "config.toml").exists():
        raise ValueError(f"{directory} is not a run directory: no config.toml. Give the --out of a run")


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration stored in a run directory, as plain data; empty for a missing file."""
    path = directory / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes a configuration, given as plain data, into a run directory."""
    import tomli_w

    files.write_text(directory / "config.toml", tomli_w.dumps(config))


class SkippedCount(NamedTuple):
    """Records that were skipped for one reason; `num_only` would be kept if this rule did not exist."""

    num_records: int
    num_only: int
    example: str


def count_skipped(store: RunStore) -> dict[tuple[str, str], SkippedCount]:
    """The skipped records of each stage and reason, with the last one as an example that names the file."""
    counts, num_only, last = Counter[tuple[str, str]](), Counter[tuple[str, str]](), dict[Any, Skipped]()
    for row in store.stream(SKIPPED, Skipped):
        key = row.stage, row.reason
        counts[key] += 1
        num_only[key] += row.is_only_reason
        last[key] = row
    videos = store.rows("videos", Video)

    def example(row: Skipped) -> str:
        # An id is a path or a video id, or it begins with a video id.
        unit, slash, rest = row.id.partition("/")
        video = videos.get(file_of(unit))
        name = Path(row.id).name if row.stage == "videos" else row.id
        return f"{Path(video.path).name + slash + rest if video else name}: {row.detail}"

    return {key: SkippedCount(counts[key], num_only[key], example(row)) for key, row in last.items()}
