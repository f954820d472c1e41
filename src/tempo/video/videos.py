"""The first stage: which files there are, and which of them are videos."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tempo.config import VideosConfig
from tempo.core.records import Record, Video
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.decoding import read_header
from tempo.video.faults import attempt, check_in_place, read_error
from tempo.video.patience import with_patience

#: Longer side of a picture over its shorter one: Qwen2-VL's processors raise at 200 and more, and when a thin
#: picture is made small, rounding can double this.
MAX_RATIO = 100

#: A byte of a name that is not UTF-8, as it is written down.
ESCAPED = re.compile(r"\\udc[89a-f][0-9a-f]")


class VideoFile(Record):
    """A file that may be a video; `id` is its path, since its content is not yet known."""


def find_videos(paths: Iterable[str | Path], extensions: Iterable[str]) -> list[Path]:
    """The named files whatever they are called, and all files in the named folders that have an extension.

    Sorted, each once; links are followed, also in circles. A name that is not UTF-8 comes escaped: no file is
    found under it. Raises ValueError that names a path which does not exist, or says that nothing was found.
    """
    suffixes = tuple(f".{extension.lower().removeprefix('.')}" for extension in extensions)
    given = [Path(path).expanduser() for path in paths]
    found: set[Path] = set()
    for path in given:
        if not path.exists():
            raise ValueError(f"videos.paths: {str(path)!r} does not exist")
        found.update(_walk(path, suffixes) if path.is_dir() else [path])
    if not found:
        where = ", ".join(map(str, given)) or "no path at all"
        raise ValueError(f"videos.paths: no video in {where} (looked for {', '.join(suffixes)})")
    return sorted({_writable(path) for path in found})


def video_id(path: str | Path) -> str:
    """The first 16 hex digits of the SHA-256 of the content; raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def make_worker(context: Context) -> Worker:
    """A worker that maps VideoFile to Video, or to a Skipped whose id is the path."""
    config = context.config.videos
    return per_record("videos", lambda file: _identify(file, config))


def per_record(stage: str, function: Callable[[Any], Record]) -> Worker:
    """A worker that applies `function` to each record; one on which it fails becomes a Skipped of `stage`."""

    def worker(batch: Sequence[Any]) -> Sequence[Record]:
        return [attempt(stage, record, function) for record in batch]

    return worker


def check_unchanged(path: str, expected_id: str, roots: Sequence[str] = ()) -> None:
    """Raises SkipRecord if the file is gone or has another content than when it was found in one of `roots`.

    And MachineFault if its disk is gone, also where it is a link to it.
    """
    for place in (path, os.path.realpath(path)):
        check_in_place(place, roots)
    found_id = _read_id(path)
    if found_id != expected_id:
        raise SkipRecord("file changed", f"{path} now has the content {found_id}")


def check_shape(width: int, height: int) -> None:
    """Raises SkipRecord for a picture that no model takes."""
    if max(width, height) > MAX_RATIO * min(width, height):
        raise SkipRecord(
            "picture too thin", f"{width} x {height} pixels, at most {MAX_RATIO} to 1 can be shown"
        )


def _read_id(path: str) -> str:
    """The id of a file; raises SkipRecord if it is gone or cannot be read to its end."""
    try:
        return video_id(path)
    except OSError as error:
        raise read_error(error, path) from None


def _identify(file: VideoFile, config: VideosConfig) -> Video:
    if ESCAPED.search(file.id) and not os.path.exists(file.id):
        raise SkipRecord("name is not UTF-8", "rename the file")
    check_in_place(file.id, config.paths)
    header = with_patience(lambda _: read_header(file.id), config.timeout_seconds)
    return Video(id=_read_id(file.id), path=file.id, **dataclasses.asdict(header))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files under `folder` with one of the suffixes, any case; a folder is entered once by its real path.

    Dead links and folders that cannot be read come too, to be reported by name; sockets and pipes do not:
    opening one would wait for ever.
    """
    entered: set[str] = set()
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=closed.append):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in names:
            path = Path(parent, name)
            # os.path, since pathlib raises where a folder may be listed but not entered.
            if name.lower().endswith(suffixes) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path
    yield from (Path(error.filename) for error in closed)


def _writable(path: Path) -> Path:
    """The path as records, which are UTF-8, can hold it: bytes that are none as `\\udcNN`."""
    return Path(str(path).encode("utf-8", "backslashreplace").decode())
