"""Pairs from files in the formats of tempo, TRL, ms-swift and LLaMA-Factory, alone or as the pairs of a run.

A column `tempo` holds the values for which the other three formats have no column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from tempo.core.files import describe_error, read_file
from tempo.core.hashing import hash_text
from tempo.core.records import Pair
from tempo.engine.types import Context
from tempo.preference.pairs import Selection, select_pairs, skip
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "pairs.import_from"

#: Stands for the video in a text of ms-swift and LLaMA-Factory.
VIDEO_TAG = "<video>"
TAGS = (VIDEO_TAG, "<image>", "<audio>")

_ROLES = {"human": "user", "gpt": "assistant"}

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]

#: The keys of the column `tempo`, with the values for a row made elsewhere.
ORIGIN: Row = {"id": "", "video_id": "", "kind": "other", "level": 0}
ORIGIN |= {"order": (), "num_clips": 0, "frames": ()}


def load_pairs(path: Path | str) -> list[Pair]:
    """The pairs of a run directory, or of a JSONL, JSON or Parquet file.

    A file may have the format of tempo, TRL, ms-swift or LLaMA-Factory. A `video_id` that a row lacks is made
    from `video`, or without a video from the chosen text. Raises ValueError that names the file and the row
    that is not a pair.
    """
    file = Path(path)
    file = file / "pairs.jsonl" if file.is_dir() else file
    return [pair for _, pair in parse_rows(file, "load_pairs", pair_of_row)]


def pair_of_row(row: Row) -> Pair:
    """The pair in a row of any known format; a missing `id` or `video_id` is made from the content.

    Raises ValueError that names the column at fault.
    """
    pair = _read_row(row)
    return _identified(pair, pair.video_id or hash_text(pair.video or pair.chosen)[:12], pair.video)


def import_pairs(context: Context) -> Selection:
    """The pairs of `pairs.import_from`, not filtered but selected like the run's own.

    Rows that cannot be trained on are skipped. Raises ValueError that names a row that is not a pair or whose
    video the run does not have.
    """
    path, library = Path(context.config.pairs.import_from), read_library(context)
    frames = FrameStore(context.directory / "frames")

    def parse(row: Row) -> Pair:
        pair = _read_row(row)
        video_id = find_video(library, pair.video, video_id=pair.video_id, folder=path.parent)
        return _identified(pair, video_id, library.paths.get(video_id, pair.video))

    pairs: dict[str, Pair] = {}
    skipped = []
    for place, pair in parse_rows(path, KEY, parse):
        faults = {
            "duplicate": pair.id in pairs,
            "its video was skipped": not frames.has(pair.video_id),
            "empty text": not all(text.strip() for text in (pair.prompt, pair.chosen, pair.rejected)),
            "same text": pair.chosen == pair.rejected,
            # Frame numbers of another run are wrong if it took its frames at another rate.
            "about a perturbed video": bool(pair.frames),
        }
        if reason := next((reason for reason, applies in faults.items() if applies), ""):
            skipped.append(skip(f"{path.name} {place}", reason, pair.id))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config.pairs, seed=context.config.run.seed)
    return Selection(selected.pairs, selected.held_out, [*skipped, *selected.skipped])


def parse_rows(path: Path, key: str, parse: Callable[[Row], T]) -> Iterator[tuple[str, T]]:
    """What `parse` makes of each row of a user's file, with the row's place ("line 3").

    Raises ValueError that names `key` (a configuration key or a function), the file, and the bad row.
    """
    for place, row in read_file(path, key):
        try:
            if not isinstance(row, dict):
                raise ValueError(f"a row is an object of keys and values, got {str(row)[:60]!r}")
            parsed = parse(row)
        except ValueError as error:
            raise ValueError(f"{key}: {path} {place}: {error}") from None
        yield place, parsed


def _identified(pair: Pair, video_id: str, video: str) -> Pair:
    # Only its texts distinguish a pair without an order from the video's other pairs.
    texts = json.dumps([pair.prompt, pair.chosen, pair.rejected])
    suffix = "" if pair.order else "-" + hash_text(texts)[:12]
    own_id = pair.id or f"{video_id}/{pair.kind}-{pair.level:02d}{suffix}"
    return pair.model_copy(update={"id": own_id, "video_id": video_id, "video": video})


def _read_row(row: Row) -> Pair:
    if "messages" in row:
        turns, rejected = read_turns(row["messages"], "messages"), "rejected_response"
    elif "chosen" in row:
        start = "conversations" if "conversations" in row else "prompt"
        prompt = read_turns(row[start], start, "user") if start in row else []
        # Without a column for the prompt, `chosen` may begin with it (TRL's implicit prompt).
        turns, rejected = [*prompt, *read_turns(row["chosen"], "chosen")], "rejected"
    else:
        raise ValueError(
            "not a known format: a row has prompt, chosen and rejected (TRL, Parquet), messages and "
            "rejected_response (ms-swift), or conversations, chosen and rejected (LLaMA-Factory); this one "
            f"has {', '.join(map(str, row)) or 'nothing'}"
        )
    roles = [role for role, _ in turns]
    if roles not in (["user", "assistant"], ["assistant"]):
        raise ValueError(f"a pair has one question and one answer, this row has messages of {roles}")
    other = read_turns(row.get(rejected), rejected)
    if not other or other[-1][0] != "assistant":
        raise ValueError(f"{rejected} should end with an answer, got {[role for role, _ in other]}")
    # The rows of tempo itself, known by `video_id`, have a column for each value.
    origin = row.get("tempo") or (row if "video_id" in row else {})
    if not isinstance(origin, dict):
        raise ValueError(f"tempo: expected a table of values, got {str(origin)[:60]!r}")
    values = ORIGIN | {name: origin[name] for name in ORIGIN if origin.get(name) is not None}
    values["prompt"] = untagged(turns[0][1]) if len(turns) == 2 else ""
    values |= {"chosen": turns[-1][1], "rejected": other[-1][1], "video": read_video(row)}
    try:
        return Pair.model_validate(values)
    except ValidationError as error:
        raise ValueError(describe_error(error.errors()[0], Pair)) from None


def read_turns(messages: Any, column: str, role: str = "assistant") -> list[tuple[str, str]]:
    """The role and text of each message of a conversation; a lone text is one message of `role`.

    The content of a message may be a string or a list of parts. Raises ValueError that names the column.
    """
    if isinstance(messages, str):
        return [(role, messages)]
    messages = [messages] if isinstance(messages, dict) else messages
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{column} should be a list of messages, got {str(messages)[:60]!r}")
    turns = []
    for message in messages:
        name = str(message.get("role") or message.get("from"))
        content = message.get("content", message.get("value"))
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise ValueError(f"{column} has a message without text: {str(message)[:60]!r}")
        turns.append((_ROLES.get(name, name), content))
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
