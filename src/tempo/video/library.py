"""Which video of a run somebody else's row is about: by its id, by its path, or by its content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tempo.core.records import Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.video.videos import video_id


@dataclass(frozen=True)
class Library:
    """The videos of a run: where they lie by id, ids by real path, real paths that were set aside.

    `folders` are those of `videos.paths`.
    """

    paths: dict[str, str]
    ids: dict[str, str]
    dropped: frozenset[str]
    folders: tuple[str, ...] = ()


def read_library(context: Context) -> Library:
    """The videos of a run whose stage `videos` is done."""
    store = RunStore(context.directory)
    paths = {video.id: present_path(video) for video in store.read("videos", Video)}
    # The stage drops by path, not by id: what it sets aside has none.
    dropped = (os.path.realpath(drop.id) for drop in store.read(SKIPPED, Skipped) if drop.stage == "videos")
    return Library(
        paths=paths,
        ids={os.path.realpath(path): name for name, path in paths.items()},
        dropped=frozenset(dropped),
        folders=tuple(os.path.expanduser(path) for path in context.config.videos.paths),
    )


def present_path(video: Video) -> str:
    """Where a file with the content of the video lies: the first that is there, else where it was found."""
    return next((path for path in (video.path, *video.copies) if os.path.isfile(path)), video.path)


def find_video(library: Library, path: str, *, video_id: str, folder: Path) -> str:
    """The id of the video that a row in a file of `folder` names by id, or else by path.

    A path is relative to `folder`, or else to one of `videos.paths`; a copy is known by its content. Empty
    for a file that the run set aside. Raises ValueError for one that it does not have.
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
    if library.dropped.isdisjoint(places):
        raise ValueError(f"asks about {path}, which is not among the videos of this run (videos.paths)")
    return ""


def _content_id(path: str) -> str:
    """The id of a file by its content, empty where there is none that can be read."""
    try:
        return video_id(path) if os.path.isfile(path) else ""
    except OSError:
        return ""
