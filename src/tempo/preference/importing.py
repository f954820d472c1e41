"""Pairs made elsewhere as pairs of this run: `pairs.import_from` takes the place of four stages.

The maker's filter stands: of the rows that can be read, only those are set aside that cannot be trained on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tempo.core.records import Pair, Skipped
from tempo.core.row_files import read_file
from tempo.engine.types import Context
from tempo.preference.formats import Draft, read_row
from tempo.preference.selection import STAGE, Selection, select_pairs
from tempo.video.find import Library, find_video, read_library
from tempo.video.frames import FrameStore

KEY = "pairs.import_from"


def import_pairs(context: Context) -> Selection:
    """The pairs of the file, selected like the run's own, and those that cannot be trained on.

    Raises ValueError that names the line which is no pair, or asks about a video that the run lacks.
    """
    path = Path(context.config.pairs.import_from)
    library = read_library(context)
    frames = FrameStore(context.directory / "frames")
    pairs: dict[str, Pair] = {}
    drops = []
    for place, row in read_file(path, KEY):
        try:
            pair = _pair(read_row(row), path.parent, library)
            same = pairs.get(pair.id)
            if same and same != pair:
                raise ValueError(f"a pair with the id {pair.id!r} and other words stands above")
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {place}: {error}") from None
        fault = ("duplicate", f"same as {pair.id}") if same else _fault(pair, frames)
        if fault:
            drops.append(Skipped(stage=STAGE, id=f"{path.name} {place}", reason=fault[0], detail=fault[1]))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config.pairs, seed=context.config.run.seed)
    return Selection(pairs=selected.pairs, held_out=selected.held_out, drops=[*drops, *selected.drops])


def _pair(draft: Draft, folder: Path, library: Library) -> Pair:
    """The pair of a draft; a path is relative to `folder`, where the file stands."""
    origin = draft.origin
    video = find_video(library, draft.video, video_id=origin.video_id, folder=folder)
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
