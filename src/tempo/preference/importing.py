"""Pairs made elsewhere: read from a file of any known format, alone or as the pairs of a run.

The formats are those of tempo, TRL, ms-swift and LLaMA-Factory. A column `tempo` holds the values for which
the other three have no column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from tempo.core.files import describe_error, read_file
from tempo.core.hashing import hash_text
from tempo.core.records import Pair, Skipped
from tempo.engine.types import Context
from tempo.preference.pairs import STAGE, Selection, select_pairs
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "pairs.import_from"

#: Stands for the video in a text of ms-swift and LLaMA-Factory.
VIDEO_TAG = "<video>"
TAGS = (VIDEO_TAG, "<image>", "<audio>")

Row: TypeAlias = dict[str, Any]

_ROLES = {"human": "user", "gpt": "assistant"}

#: The keys of the column `tempo`, with the values for a row made elsewhere.
ORIGIN: Row = {"id": "", "video_id": "", "kind": "other", "level": 0, "order": (), "num_clips": 0}
ORIGIN["frames"] = ()


class Turn(NamedTuple):
    """A message: `user`, `assistant` or another role, and its text."""

    role: str
    text: str


def load_pairs(path: Path | str) -> list[Pair]:
    """The pairs of a run directory, or of a JSONL, JSON or Parquet file.

    A file may have the format of tempo, TRL, ms-swift or LLaMA-Factory. `video` stays as the row has it. A
    `video_id` that the row lacks is made from `video`, or without a video from the chosen text. Raises
    ValueError that names the file and the row that is not a pair.
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
    """The pair in a row of any known format, without a run. Raises ValueError as `read_row`."""
    pair = read_row(row)
    return _identified(pair, pair.video_id or hash_text(pair.video or pair.chosen)[:12], pair.video)


def import_pairs(context: Context) -> Selection:
    """The pairs of `pairs.import_from`, without the pair filter but selected like the run's own.

    Rows that cannot be trained on are skipped with a reason. Raises ValueError that names the row that is not
    a pair, or whose video the run does not have.
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
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {place}: {error}") from None
        fault = _fault(pair, frames)
        if pair.id in pairs:
            fault = "duplicate", f"an earlier row has the id {pair.id}"
        if fault:
            row_id = f"{path.name} {place}"
            skipped.append(Skipped(stage=STAGE, id=row_id, reason=fault[0], detail=fault[1]))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config.pairs, seed=context.config.run.seed)
    return Selection(selected.pairs, selected.held_out, [*skipped, *selected.skipped])


def _identified(pair: Pair, video_id: str, video: str) -> Pair:
    """The pair with its video, and with an id made from its content if it has none."""
    # Only its texts distinguish a pair without an order from the video's other pairs.
    texts = json.dumps([pair.prompt, pair.chosen, pair.rejected])
    suffix = "" if pair.order else "-" + hash_text(texts)[:12]
    own_id = pair.id or f"{video_id}/{pair.kind}-{pair.level:02d}{suffix}"
    return pair.model_copy(update={"id": own_id, "video_id": video_id, "video": video})


def _fault(pair: Pair, frames: FrameStore) -> tuple[str, str] | None:
    """Why a pair cannot be trained on, as (reason, detail); None if it can."""
    if not frames.has(pair.video_id):
        return "its video was skipped", f"{pair.video} has no frames"
    for name in ("prompt", "chosen", "rejected"):
        if not getattr(pair, name).strip():
            return "empty text", f"{name} of {pair.id}"
    if pair.chosen == pair.rejected:
        return "same text", f"{pair.id}, {len(pair.chosen.split())} words"
    if pair.frames:
        # Frame numbers have no meaning if this run took its frames at another rate, which a row cannot show.
        return "about a perturbed video", f"{pair.id} is a mirrored pair, of frames that another run took"
    return None


def read_row(row: Any) -> Pair:
    """The pair in a row of any known format; `id` and `video_id` are empty unless the row states them.

    `video` is the path as written in the row, or empty. Messages have `role` and `content` or `from` and
    `value`. Without a column `prompt`, `chosen` may be a conversation that begins with it (TRL's implicit
    prompt), else the prompt is empty. Raises ValueError that names the column at fault.
    """
    check_row(row)
    if "messages" in row:
        turns, rejected = read_turns(row["messages"], "messages"), "rejected_response"
    elif "chosen" in row:
        start = "conversations" if "conversations" in row else "prompt"
        prompt = read_turns(row[start], start, "user") if start in row else []
        turns, rejected = [*prompt, *read_turns(row["chosen"], "chosen")], "rejected"
    else:
        raise ValueError(
            "not a known format: a row has prompt, chosen and rejected (TRL, Parquet), messages and "
            "rejected_response (ms-swift), or conversations, chosen and rejected (LLaMA-Factory); this one "
            f"has {', '.join(map(str, row)) or 'nothing'}"
        )
    if row.get(rejected) is None:
        raise ValueError(f"{rejected} is missing")
    roles = [turn.role for turn in turns]
    if roles not in (["user", "assistant"], ["assistant"]):
        raise ValueError(f"a pair has one question and one answer, this row has messages of {roles}")
    other = read_turns(row[rejected], rejected)
    if not other or other[-1].role != "assistant":
        raise ValueError(f"{rejected} should end with an answer, got {[turn.role for turn in other]}")
    # The rows of tempo itself, known by `video_id`, have a column for each value.
    origin = row.get("tempo") or (row if "video_id" in row else {})
    if not isinstance(origin, dict):
        raise ValueError(f"tempo: expected a table of values, got {str(origin)[:60]!r}")
    values = ORIGIN | {name: origin[name] for name in ORIGIN if origin.get(name) is not None}
    values["prompt"] = untagged(turns[0].text) if len(turns) == 2 else ""
    values |= {"chosen": turns[-1].text, "rejected": other[-1].text, "video": read_video(row)}
    try:
        return Pair.model_validate(values)
    except ValidationError as error:
        raise ValueError(describe_error(error.errors()[0], Pair)) from None


def check_row(row: Any) -> None:
    """Raises ValueError for a row that is not a dict."""
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object of keys and values, got {str(row)[:60]!r}")


def read_turns(messages: Any, column: str, role: str = "assistant") -> list[Turn]:
    """The messages of a conversation; a lone text is one message of `role`.

    The text of a message is a string, or the text parts of a list. Raises ValueError that names the column.
    """
    if isinstance(messages, str):
        return [Turn(role, messages)]
    messages = [messages] if isinstance(messages, dict) else messages
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{column} should be a list of messages, got {str(messages)[:60]!r}")
    turns = []
    for message in messages:
        name, content = (
            str(message.get("role") or message.get("from")),
            message.get("content", message.get("value")),
        )
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise ValueError(f"{column} has a message without text: {str(message)[:60]!r}")
        turns.append(Turn(_ROLES.get(name, name), content))
    return turns


def untagged(prompt: str, tags: Sequence[str] = (VIDEO_TAG,)) -> str:
    """The prompt without one of `tags` at its beginning or end; raises ValueError if more tags remain."""
    media = "|".join(map(re.escape, tags))
    bare = re.sub(rf"\A(?:{media})\n?|\n?(?:{media})\Z", "", prompt, count=1)
    if found := [tag for tag in TAGS if tag in bare]:
        raise ValueError(f"the prompt contains {found[0]} in addition to its one video")
    return bare


def read_video(row: Row) -> str:
    """The path of the row's one video as written there, empty if it has none; raises ValueError."""
    videos = row.get("videos", row.get("video")) or []
    videos = [videos] if isinstance(videos, str) else videos
    if not isinstance(videos, list) or len(videos) > 1 or not all(isinstance(path, str) for path in videos):
        raise ValueError(f"a row is about one video file, got {str(videos)[:80]}")
    return videos[0] if videos else ""
