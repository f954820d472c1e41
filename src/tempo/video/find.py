"""The stage `videos`: which files are videos, and which of these a row in a user's file refers to."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tempo.config import VideosConfig
from tempo.core.records import Record, Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.decode import read_header
from tempo.video.faults import check_in_place, per_record, read_error, watched

#: A byte of a name that is not UTF-8, as records hold it.
ESCAPED = re.compile(r"\\udc[89a-f][0-9a-f]")


class VideoFile(Record):
    """A file that may be a video; `id` is its path, because its content is not known yet."""


def find_videos(paths: Iterable[str | Path], extensions: Iterable[str]) -> list[Path]:
    """The given files, whatever their names, and all files with one of the extensions in the given folders.

    Sorted, each once; links are followed, also in circles. Names that are not UTF-8 are escaped, so no file
    is found under them. Raises ValueError for a path that does not exist, and where there are no videos.
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
    return sorted({_as_utf8(path) for path in found})


def video_id(path: str | Path) -> str:
    """The first 16 hex digits of the SHA-256 of the content; raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def make_worker(context: Context) -> Worker:
    """A worker that maps VideoFile to Video, or to a Skipped whose id is the path."""
    config = context.config.videos
    return per_record("videos", lambda file: _identify(file, config))


def _identify(file: VideoFile, config: VideosConfig) -> Video:
    if ESCAPED.search(file.id) and not os.path.exists(file.id):
        raise SkipRecord("name is not UTF-8", "rename the file")
    check_in_place(file.id, config.paths)
    header = watched(lambda _: read_header(file.id), config.timeout_seconds)
    return Video(id=_read_id(file.id), path=file.id, **dataclasses.asdict(header))


def check_unchanged(path: str, expected_id: str, roots: Sequence[str] = ()) -> None:
    """Raises SkipRecord if the file is gone or has another content than when it was found in one of `roots`.

    Raises MachineFault if its disk is gone, or the disk that it links to.
    """
    for place in (path, os.path.realpath(path)):
        check_in_place(place, roots)
    found_id = _read_id(path)
    if found_id != expected_id:
        raise SkipRecord("file changed", f"{path} now has the content {found_id}")


def _read_id(path: str) -> str:
    """The id of a file; raises SkipRecord if it is gone or cannot be read."""
    try:
        return video_id(path)
    except OSError as error:
        raise read_error(error, path) from None


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files under `folder` with one of the suffixes, in any case; each real folder is entered once.

    Dead links and folders that cannot be read are included, so that they are reported. Sockets and pipes are
    not: opening one would wait for ever.
    """
    entered: set[str] = set()
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in names:
            path = Path(parent, name)
            # os.path: pathlib raises for files in a folder that may be listed but not entered.
            if name.lower().endswith(suffixes) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path
    yield from (Path(error.filename) for error in unreadable)


def _as_utf8(path: Path) -> Path:
    """The path as records, which are UTF-8, can hold it: other bytes as `\\udcNN`."""
    return Path(str(path).encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True)
class Library:
    """The videos of a run: paths by id, ids by real path, and real paths that were skipped.

    `folders` are those of `videos.paths`.
    """

    paths: dict[str, str]
    ids: dict[str, str]
    skipped: frozenset[str]
    folders: tuple[str, ...] = ()


def read_library(context: Context) -> Library:
    """The videos of a run whose stage `videos` is done."""
    store = RunStore(context.directory)
    paths = {video.id: present_path(video) for video in store.read("videos", Video)}
    # This stage skips by path: a file that is not a video has no id.
    skipped = (os.path.realpath(row.id) for row in store.read(SKIPPED, Skipped) if row.stage == "videos")
    return Library(
        paths=paths,
        ids={os.path.realpath(path): name for name, path in paths.items()},
        skipped=frozenset(skipped),
        folders=tuple(os.path.expanduser(path) for path in context.config.videos.paths),
    )


def present_path(video: Video) -> str:
    """The first path with the content of the video that exists, or else the path where it was found."""
    return next((path for path in (video.path, *video.copies) if os.path.isfile(path)), video.path)


def find_video(library: Library, path: str, *, video_id: str, folder: Path) -> str:
    """The id of the video that a row of a file in `folder` names by id, or else by path.

    A path is relative to `folder`, or else to one of `videos.paths`; copies are found by their content. Empty
    for a file that the run skipped. Raises ValueError for a video that the run does not have.
    """
    if video_id in library.paths:
        return video_id
    if not path:
        asked = video_id or "no video: it has no column videos, video or video_id"
        raise ValueError(f"asks about {asked}; the run has {len(library.paths)} videos")
    places = [os.path.realpath(os.path.join(start, path)) for start in (str(folder), *library.folders)]
    by_path = (library.ids[place] for place in places if place in library.ids)
    # Reads whole files, so only where no path is known.
    by_content = (found for found in map(_content_id, places) if found in library.paths)
    if found := next(chain(by_path, by_content), ""):
        return found
    if library.skipped.isdisjoint(places):
        raise ValueError(f"asks about {path}, which is not among the videos of this run (videos.paths)")
    return ""


def _content_id(path: str) -> str:
    """The id of a file by its content; empty where there is no file that can be read."""
    try:
        return video_id(path) if os.path.isfile(path) else ""
    except OSError:
        return ""
