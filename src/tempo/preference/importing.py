"""Pairs made elsewhere: from a file of any known format, or as the pairs of a run (`pairs.import_from`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tempo.core.records import Pair, Skipped
from tempo.core.row_files import read_file
from tempo.engine.types import Context
from tempo.preference.formats import read_row
from tempo.preference.pairs import STAGE, Selection, select_pairs
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "pairs.import_from"


def load_pairs(path: Path | str) -> list[Pair]:
    """The pairs of a run directory, or of a JSONL, JSON or Parquet file.

    A file may have the format of tempo, TRL, ms-swift or LLaMA-Factory. `video` stays as the row has it, and
    `video_id`, where the row has none, is made from it, else from the chosen text. Raises ValueError that
    names the file and the row that is not a pair.
    """
    file = Path(path)
    file = file / "pairs.jsonl" if file.is_dir() else file
    pairs = []
    for place, row in read_file(file, "load_pairs"):
        try:
            pairs.append(pair_of_row(row))
        except ValueError as error:
            raise ValueError(f"{file} {place}: {error}") from None
    return pairs


def pair_of_row(row: object) -> Pair:
    """The pair in a row of any known format, without a run; raises ValueError as `read_row`."""
    pair = read_row(row)
    return _identified(pair, pair.video_id or _digest(pair.video or pair.chosen), pair.video)


def import_pairs(context: Context) -> Selection:
    """The pairs of `pairs.import_from`, without the pair filter but selected like the run's own.

    Rows that cannot be trained on are skipped with a reason. Raises ValueError that names the line which is
    not a pair, or whose video the run does not have.
    """
    path = Path(context.config.pairs.import_from)
    library = read_library(context)
    frames = FrameStore(context.directory / "frames")
    pairs: dict[str, Pair] = {}
    skipped = []
    for place, row in read_file(path, KEY):
        try:
            pair = read_row(row)
            video_id = find_video(library, pair.video, video_id=pair.video_id, folder=path.parent)
            pair = _identified(pair, video_id, library.paths.get(video_id, pair.video))
            same = pairs.get(pair.id)
            if same and same != pair:
                raise ValueError(f"an earlier pair has the id {pair.id!r} and other texts")
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {place}: {error}") from None
        if fault := ("duplicate", f"same as {pair.id}") if same else _fault(pair, frames):
            row_id = f"{path.name} {place}"
            skipped.append(Skipped(stage=STAGE, id=row_id, reason=fault[0], detail=fault[1]))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config.pairs, seed=context.config.run.seed)
    return Selection(selected.pairs, selected.held_out, [*skipped, *selected.skipped])


def _identified(pair: Pair, video_id: str, video: str) -> Pair:
    """The pair with its video, and with an id made from its content if it has none."""
    # Only its texts distinguish a pair without an order from the video's other pairs.
    texts = "" if pair.order else "-" + _digest(json.dumps([pair.prompt, pair.chosen, pair.rejected]))
    own_id = pair.id or f"{video_id}/{pair.kind}-{pair.level:02d}{texts}"
    return pair.model_copy(update={"id": own_id, "video_id": video_id, "video": video})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _fault(pair: Pair, frames: FrameStore) -> tuple[str, str] | None:
    """Why a pair cannot be trained on, as (reason, what is wrong); None if it can."""
    if not frames.has(pair.video_id):
        return "its video was skipped", f"{pair.video} has no frames"
    for name, text in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not text.strip():
            return "empty text", f"{name} of {pair.id}"
    if pair.chosen == pair.rejected:
        return "same text", f"{pair.id}, {len(pair.chosen.split())} words"
    if pair.frames:
        # Frame numbers have no meaning if this run took its frames at another rate, which a row cannot show.
        return "about a perturbed video", f"{pair.id} is a mirrored pair, of frames that another run took"
    return None
