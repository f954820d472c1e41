"""Pairs from files in the formats of tempo, TRL, ms-swift and LLaMA-Factory, alone or as the pairs of a run.

A column `tempo` holds the values for which the other three formats have no column.
"""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from tempo.core.files import MAX_BAD_SHARE, read_user_file, validate_row
from tempo.core.hashing import hash_text
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.pairs import Selection, select_pairs, skip
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "pairs.import_from"

#: Placeholder for the video in texts of ms-swift and LLaMA-Factory.
VIDEO_TAG = "<video>"
TAGS = (VIDEO_TAG, "<image>", "<audio>")

# LLaVA writes `<image>` for a video too.
_PLACEHOLDER = re.compile(r"\A\s*<(video|image)>\s*|\s*<(video|image)>\s*\Z")

#: Columns that may have the question of a row with `chosen` and `rejected`.
_PROMPTS = ("conversations", "messages", "prompt", "question", "query")

_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}

Row: TypeAlias = dict[str, Any]

#: The keys of the column `tempo`, with the values for rows from other tools.
ORIGIN: Row = {"id": "", "video_id": "", "kind": "other", "level": 0}
ORIGIN |= {"order": (), "num_clips": 0, "frames": (), "span": ()}


def load_pairs(path: Path | str, *, max_bad_share: float = MAX_BAD_SHARE) -> list[Pair]:
    """The pairs of a run directory, or of a JSONL, JSON or Parquet file.

    A file may have the format of tempo, TRL, ms-swift or LLaMA-Factory. A missing `video_id` is
    derived from `video`, or without a video from the chosen text. A warning names invalid rows; raises
    ValueError if their share is above `max_bad_share`.
    """
    file = Path(path)
    file = file / "pairs.jsonl" if file.is_dir() else file
    return [*read_user_file(file, KEY, pair_of_row).check(max_bad_share).rows.values()]


def pair_of_row(row: Row) -> Pair:
    """The pair in a row of any known format; a missing `id` or `video_id` is derived from the content.

    Raises ValueError that names the invalid column.
    """
    pair = _read_row({name: value for name, value in row.items() if value is not None})
    return _identified(pair, pair.video_id or hash_text(pair.video or pair.chosen)[:12], pair.video)


def import_pairs(context: Context) -> Selection:
    """The pairs of `pairs.import_from`, not filtered but selected like the run's own.

    Rows that cannot be trained on are skipped. Raises ValueError that names invalid rows, and rows about
    a video that the run does not have, if their share is above `run.max_bad_share`.
    """
    path, library = Path(context.config.pairs.import_from), read_library(context)
    frames = FrameStore(context.directory / "frames")

    def parse(row: Row) -> Pair:
        pair = _read_row(row)
        video_id = find_video(library, pair.video, video_id=pair.video_id, folder=path.parent)
        return _identified(pair, video_id, library.paths.get(video_id, pair.video))

    pairs: dict[str, Pair] = {}
    file = read_user_file(path, KEY, parse).check(context.config.run.max_bad_share)
    skipped = [skip(f"{path.name} {place}", "bad row", fault) for place, fault in file.faults.items()]
    for place, pair in file.rows.items():
        faults = {
            "duplicate": pair.id in pairs,
            "its video was skipped": not frames.has(pair.video_id),
            "empty text": not all(text.strip() for text in (pair.prompt, pair.chosen, pair.rejected)),
            "same text": pair.chosen == pair.rejected,
            # Frame numbers of another run are wrong if it sampled frames at a different rate.
            "about a perturbed video": bool(pair.frames),
            "about a segment of a video": bool(pair.span),
        }
        if reason := next((reason for reason, applies in faults.items() if applies), ""):
            skipped.append(skip(f"{path.name} {place}", reason, pair.id))
        else:
            pairs[pair.id] = pair
    selected = select_pairs(pairs.values(), context.config, RunStore(context.directory).reviews())
    return replace(selected, skipped=[*skipped, *selected.skipped])


def _identified(pair: Pair, video_id: str, video: str) -> Pair:
    # Only its texts distinguish a pair without an order from the video's other pairs.
    texts = [pair.prompt, pair.chosen, pair.rejected, *([pair.system] if pair.system else [])]
    suffix = "" if pair.order else "-" + hash_text(json.dumps(texts))[:12]
    own_id = pair.id or f"{video_id}/{pair.kind}-{pair.level:02d}{suffix}"
    return pair.model_copy(update={"id": own_id, "video_id": video_id, "video": video})


def _read_row(row: Row) -> Pair:
    with contextlib.suppress(ValidationError):
        # A row in tempo's own format has a column for each value.
        return Pair.model_validate({name: row[name] for name in Pair.model_fields if name in row})
    swift = next((name for name in ("rejected_response", "rejected_messages") if name in row), "")
    columns = ("messages", swift) if swift and "messages" in row else ("chosen", "rejected")
    if columns[0] not in row:
        raise ValueError(
            "not a known format: a row has prompt, chosen and rejected (TRL), messages and rejected_response "
            f"(ms-swift), or conversations, chosen and rejected (LLaMA-Factory); this one has {list(row)}"
        )
    (system, chosen), (_, rejected) = (read_turns(row, column) for column in columns)
    asked = next((name for name in _PROMPTS if row.get(name)), "")
    # `chosen` and `rejected` may begin with the prompt (TRL's implicit prompt).
    if asked and "user" not in dict(chosen):
        system, question = read_turns(row, asked, "user")
        chosen = [*question, *chosen]
    roles = [role for role, _ in chosen]
    if roles not in (["user", "assistant"], ["assistant"]):
        raise ValueError(f"a pair has one question and one answer, but this row has messages of {roles}")
    if not rejected or rejected[-1][0] != "assistant":
        raise ValueError(f"{columns[1]} should end with an answer, got {[role for role, _ in rejected]}")
    prompts = {text for role, text in [*chosen, *rejected] if role == "user"}
    if len(prompts) > 1:
        raise ValueError(f"the two answers are for different questions: {sorted(prompts)}")
    prompt, origin = "".join(prompts), row["tempo"] if isinstance(row.get("tempo"), dict) else {}
    # TRL's format has no placeholder, and tempo does not write one.
    is_own = origin and columns[0] == "chosen" and "prompt" in row
    values = ORIGIN | {"video_id": str(row.get("video_id", ""))}
    values |= {name: origin[name] for name in ORIGIN if origin.get(name) is not None}
    values |= {"prompt": prompt if is_own else untagged(prompt), "system": system, "video": read_video(row)}
    return validate_row(Pair, values | {"chosen": chosen[-1][1], "rejected": rejected[-1][1]})


def read_turns(row: Row, column: str, role: str = "assistant") -> tuple[str, list[tuple[str, str]]]:
    """The system prompt of a row, and the role and text of each message of the conversation in a column.

    A lone text is one message of `role`. The system prompt is the first message, or the column `system`.
    Raises ValueError that names the column.
    """
    turns: list[tuple[str, str]] = []
    messages: Any = row.get(column)
    messages = [messages] if isinstance(messages, dict) else messages
    is_list = isinstance(messages, list) and all(isinstance(m, dict) for m in messages)
    if not is_list or not all({"role", "from"} & {*m} for m in messages):
        messages = [{"role": role, "content": messages}]
    for message in messages:
        name, content = str(message.get("role") or message.get("from")), message.get("content")
        text = read_text(message.get("value") if content is None else content, column)
        turns.append((_ROLES.get(name, name), text))
    if turns and turns[0][0] == "system":
        return turns[0][1], turns[1:]
    return read_text(row.get("system", ""), "system"), turns


def read_text(value: Any, column: str) -> str:
    """A text, a number as text, or the texts of a list of parts; raises ValueError that names the column."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts = (part.get("text") for part in value)
        return "".join(read_text(text, column) for text in texts if text is not None)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{column} should be text or a list of messages, got {str(value)[:60]!r}")


def untagged(prompt: str) -> str:
    """The prompt without the placeholder of its video at the beginning or end. Others are ordinary text."""
    return _PLACEHOLDER.sub("", prompt, count=1)


def read_video(row: Row) -> str:
    """The path of the row's one video as written there, empty if it has none; raises ValueError.

    It is in a column `videos` or `video`, or in a part of a message, as in Qwen's format.
    """
    videos = row.get("videos") or row.get("video") or []
    columns = [row[name] for name in ("messages", "conversations", "prompt") if not videos and name in row]
    for message in [m for column in columns if isinstance(column, list) for m in column]:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [message]
        videos += [part["video"] for part in parts if isinstance(part, dict) and part.get("video")]
    videos = videos if isinstance(videos, list) else [videos]
    if len(videos) > 1 or not all(isinstance(path, str) for path in videos):
        raise ValueError(f"a row is about one video file, got {str(videos)[:80]}")
    return videos[0] if videos else ""
