"""The stage `videos`: finds and describes video files. Also finds the video that a user's row names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import av

from tempo.core.records import Record, Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.decode import open_video
from tempo.video.faults import check_file, per_record, watched


class VideoFile(Record):
    """A file that may be a video; `id` is its path, because its content is not known yet."""


def find_videos(paths: Iterable[str | Path], extensions: Iterable[str]) -> list[Path]:
    """The given files, and all files with one of the extensions in the given folders.

    Sorted and without duplicates; links are followed. Bytes of a name that are not UTF-8 are escaped, because
    records cannot hold them; such a file is later skipped as missing. Raises ValueError if there are none.
    """
    suffixes = tuple(f".{extension.lower().removeprefix('.')}" for extension in extensions)
    given = [Path(path).expanduser() for path in paths]
    found: set[Path] = set()
    for path in given:
        if not path.exists():
            raise ValueError(f"videos.paths: {str(path)!r} does not exist. Check the path")
        found.update(_walk(path, suffixes) if path.is_dir() else [path])
    if not found:
        where = ", ".join(map(str, given)) or "an empty list of paths"
        raise ValueError(f"videos.paths: no video in {where} (looked for {', '.join(suffixes)})")
    return sorted({Path(str(path).encode("utf-8", "backslashreplace").decode()) for path in found})


def count_other_files(paths: Iterable[str | Path], extensions: Iterable[str]) -> Counter[str]:
    """How many files in the given folders do not have one of the extensions, by their own extension."""
    wanted = {f".{extension.lower().removeprefix('.')}" for extension in extensions}
    folders = [folder for path in paths if (folder := Path(path).expanduser()).is_dir()]
    files = {path for folder in folders for path in _walk(folder, ("",)) if not path.is_dir()}
    return Counter(path.suffix.lower() for path in files if path.suffix.lower() not in wanted)


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files with one of the suffixes, in any case, and unreadable folders, so that they are reported."""
    # Links may form a cycle, so each folder is entered only once.
    entered: set[str] = set()
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        if (real := os.path.realpath(parent)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        yield from (Path(parent, name) for name in names if name.lower().endswith(suffixes))
    yield from (Path(error.filename) for error in unreadable)


def video_id(path: str | Path) -> str:
    """The first 16 hex digits of the SHA-256 of the content; raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_unchanged(path: str, expected_id: str) -> None:
    """Raises SkipRecord if the file is missing, or if its content no longer has this id."""
    check_file(path)
    if (found_id := video_id(path)) != expected_id:
        raise SkipRecord("file changed", f"{path} now has the content {found_id}")


def make_worker(context: Context) -> Worker:
    """A worker that maps VideoFile to Video, or to a Skipped whose id is the path."""
    timeout_seconds = context.config.videos.timeout_seconds
    return per_record("videos", lambda file: next(watched(map(_describe, [file.id]), timeout_seconds)))


def _describe(path: str) -> Video:
    # Before the file is hashed, because a missing file must not stop the run.
    check_file(path)
    return read_header(path, video_id(path))


def read_header(path: str, name: str) -> Video:
    """The properties that the container states, with `name` as the id; raises SkipRecord."""
    # By default, FFmpeg decodes the first frames to find details that are not needed here.
    with open_video(path, skip_frame="all") as (container, stream):
        codec, seconds = stream.codec_context, (container.duration or 0) / av.time_base
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        return Video(
            id=name,
            path=path,
            duration_seconds=max(0.0, seconds),
            width=codec.width,
            height=codec.height,
            fps=max(0.0, float(stream.average_rate or stream.guessed_rate or 0)),
            codec=codec.codec.canonical_name,
        )


@dataclass(frozen=True)
class Library:
    """The videos of a run: paths by id, ids by real path ("" for skipped files), and `videos.paths`."""

    paths: dict[str, str]
    ids: dict[str, str]
    folders: tuple[str, ...]


def read_library(context: Context) -> Library:
    """The videos of a run whose stage `videos` is finished."""
    store = RunStore(context.directory)
    paths = {video.id: video.path for video in store.read("videos", Video)}
    # In this stage, the id of a Skipped is the path.
    ids = {os.path.realpath(row.id): "" for row in store.read(SKIPPED, Skipped) if row.stage == "videos"}
    ids |= {os.path.realpath(path): name for name, path in paths.items()}
    return Library(paths, ids, tuple(os.path.expanduser(path) for path in context.config.videos.paths))


def find_video(library: Library, path: str, *, video_id: str, folder: Path) -> str:
    """The id of the video that a row of a file in `folder` names by id or by path; "" if it was skipped.

    A path is relative to `folder`, or else to one of `videos.paths`; see also `find_on_disk`. Copies of a
    video are recognized by their content. Raises ValueError for a video that the run does not have.
    """
    if video_id in library.paths:
        return video_id
    if not path:
        if video_id:
            raise ValueError(
                f"video_id {video_id!r} is not among the {len(library.paths)} videos of this run"
            )
        raise ValueError("the row names no video. Add a column videos, video or video_id")
    places = [os.path.realpath(find_on_disk(start, path)) for start in (str(folder), *library.folders)]
    # The content comes last, because identifying it means reading the whole file.
    for identify in (library.ids.get, _content_id):
        for place in places:
            if (found := identify(place)) and found in library.paths:
                return found
    if not any(place in library.ids for place in places):
        raise ValueError(
            f"{path} is not among the videos of this run (videos.paths). Add it in a new run, or "
            "remove the row"
        )
    return ""


def find_on_disk(folder: str | Path, path: str) -> str:
    """The file that `path`, relative to `folder`, names on disk; if there is none, `path` in `folder`.

    It may be a `file:` address, and may be in another Unicode normal form than the names on disk.
    """
    bare = re.sub(r"\Afile:(//(localhost)?(?=/))?", "", path, flags=re.IGNORECASE)
    names = [os.path.join(folder, name) for name in (path, bare, unquote(bare) if bare != path else bare)]
    return next((found for found in map(_in_any_form, names) if os.path.exists(found)), names[1])


def _in_any_form(path: str) -> str:
    folder, name = os.path.split(path)
    if path.isascii() or not name or os.path.exists(path):
        return path
    folder = _in_any_form(folder)
    with contextlib.suppress(OSError):
        known = {unicodedata.normalize("NFC", other): other for other in os.listdir(folder or ".")}
        name = known.get(unicodedata.normalize("NFC", name), name)
    return os.path.join(folder, name)


def _content_id(path: str) -> str | None:
    return video_id(path) if os.path.isfile(path) else None
