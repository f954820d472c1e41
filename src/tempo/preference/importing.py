"""Pairs made elsewhere as pairs of this run: `pairs.import_from` takes the place of four stages.

The maker's filter stands: of the rows that can be read, only those are set aside that cannot be trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo.preference.formats import Draft, read_row
from tempo.preference.selection import STAGE, Selection, select_pairs
from tempo.records import Drop, Pair, Video
from tempo.stage import Context
from tempo.store import DROPPED, RunStore
from tempo.video.frames import FrameStore
from tempo.video.videos import video_id

KEY = "pairs.import_from"


@dataclass(frozen=True)
class Library:
    """The videos of a run: where they lie by id, ids by real path, and real paths that were set aside."""

    paths: dict[str, str]
    ids: dict[str, str]
    dropped: frozenset[str]


def import_pairs(context: Context) -> Selection:
    """The pairs of the file, selected like the run's own, and those that cannot be trained on.

    Raises ValueError that names the line which is no pair, or asks about a video that the run lacks.
    """
    path = Path(context.config.pairs.import_from)
    library = _library(RunStore(context.directory))
    frames = FrameStore(context.directory / "frames")
    pairs: dict[str, Pair] = {}
    drops = []
    for place, row in read_file(path):
        try:
            pair = _pair(read_row(row), path.parent, library)
            same = pairs.get(pair.id)
            if same and same != pair:
                raise ValueError(f"a pair with the id {pair.id!r} and other words stands above")
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {place}: {error}") from None
        fault = ("duplicate", f"same as {pair.id}") if same else _fault(pair, frames)
        if fault:
            drops.append(Drop(stage=STAGE, id=f"{path.name} {place}", reason=fault[0], detail=fault[1]))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config.pairs, seed=context.config.run.seed)
    return Selection(pairs=selected.pairs, held_out=selected.held_out, drops=[*drops, *selected.drops])


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a JSONL, JSON or Parquet file, each with its place in words.

    Raises ValueError that names the file, and the line that is no JSON.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{KEY}: {path} cannot be read: {error}") from None
    if text.startswith("["):
        rows = _parse(text, str(path))
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    # Only a newline ends a row: str.splitlines would also cut at U+2028 and the like inside a text.
    for number, line in enumerate(text.split("\n") if text else [], 1):
        yield f"line {number}", _parse(line, f"{path} line {number}")


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{KEY}: {place} is no JSON: {error}") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{KEY}: {path} needs pyarrow: pip install 'tempo-dpo[parquet]'") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{KEY}: {path} cannot be read: {error}") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _library(store: RunStore) -> Library:
    paths = {video.id: video.path for video in store.read("videos", Video)}
    # The videos stage drops by path, not by id: what it sets aside has none.
    dropped = (os.path.realpath(drop.id) for drop in store.read(DROPPED, Drop) if drop.stage == "videos")
    ids = {os.path.realpath(path): name for name, path in paths.items()}
    return Library(paths, ids, frozenset(dropped))


def _pair(draft: Draft, folder: Path, library: Library) -> Pair:
    """The pair of a draft; a path is relative to `folder`, where the file stands."""
    video = _find_video(draft, folder, library)
    origin = draft.origin
    identity = f"{origin.kind}-{origin.level:02d}"
    if not origin.order:
        # Nothing but its words tells such a pair from the video's others.
        words = json.dumps([draft.prompt, draft.chosen, draft.rejected])
        identity += f"-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    return Pair(
        id=origin.id or f"{video}/{identity}",
        video_id=video,
        video=library.paths.get(video, draft.video),
        prompt=draft.prompt,
        chosen=draft.chosen,
        rejected=draft.rejected,
        kind=origin.kind,
        level=origin.level,
        order=origin.order,
        num_clips=origin.num_clips,
        frames=origin.frames,
    )


def _find_video(draft: Draft, folder: Path, library: Library) -> str:
    """The id of a draft's video: as it says, else by path, else by content (a copy); raises ValueError."""
    if draft.origin.video_id in library.paths:
        return draft.origin.video_id
    if not draft.video:
        asked = draft.origin.video_id or "no video: it has no column videos, video or video_id"
        raise ValueError(f"asks about {asked}; the run has {len(library.paths)} videos")
    path = os.path.realpath(folder / draft.video)
    if path in library.ids:
        return library.ids[path]
    found = video_id(path) if os.path.isfile(path) else ""
    if found in library.paths or path in library.dropped:
        return found
    raise ValueError(f"asks about {draft.video}, which is not among the videos of this run (videos.paths)")


def _fault(pair: Pair, frames: FrameStore) -> tuple[str, str] | None:
    """Why a pair cannot be trained on, as (reason, what is wrong); None if it can."""
    if not frames.has(pair.video_id):
        return "its video was set aside", f"{pair.video} has no frames"
    for name, text in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not text.strip():
            return "empty text", f"{name} of {pair.id}"
    if pair.chosen == pair.rejected:
        return "same text", f"{pair.id}, {len(pair.chosen.split())} words"
    if pair.frames:
        # Numbers of frames mean nothing where frames were taken at another rate; and nothing tells.
        return "about a perturbed video", f"{pair.id} is a mirrored pair, of frames that another run took"
    return None
