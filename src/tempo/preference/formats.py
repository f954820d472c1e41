"""Pairs as rows of other trainers' preference data, and such rows read back.

The column `tempo` holds what a format has no column for. All three trainers ignore columns that they do not
know, and the name cannot be taken for one that they do (ms-swift reads `video` as `videos`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from tempo.core.records import Pair

#: Stands for the video in a text of ms-swift and LLaMA-Factory.
VIDEO_TAG = "<video>"
TAGS = (VIDEO_TAG, "<image>", "<audio>")

Row: TypeAlias = dict[str, Any]

_ROLES = {"human": "user", "gpt": "assistant"}

#: What the column `tempo` holds, with the values for a row made elsewhere.
_ORIGIN: Row = {
    "id": "",
    "video_id": "",
    "kind": "other",
    "level": 0,
    "order": (),
    "num_clips": 0,
    "frames": (),
}


class Turn(NamedTuple):
    """A message: `user`, `assistant` or another role, and its text."""

    role: str
    text: str


def ms_swift_row(pair: Pair) -> Row:
    """`messages` that end with the chosen answer, `rejected_response`, `videos`; ValueError as `_tagged`."""
    return {
        "messages": [_message("user", _tagged(pair)), _message("assistant", pair.chosen)],
        "rejected_response": pair.rejected,
        "videos": [pair.video],
        "tempo": origin_of(pair),
    }


def llama_factory_row(pair: Pair) -> Row:
    """`conversations` (the question), `chosen`, `rejected`, `videos`; ValueError as `_tagged`."""
    return {
        "conversations": [{"from": "human", "value": _tagged(pair)}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [pair.video],
        "tempo": origin_of(pair),
    }


def trl_row(pair: Pair, images: Sequence[str]) -> Row:
    """`prompt`, `chosen` and `rejected` as messages, and frames as `images`: TRL 1.16 takes no videos."""
    return {
        "prompt": [_message("user", pair.prompt)],
        "chosen": [_message("assistant", pair.chosen)],
        "rejected": [_message("assistant", pair.rejected)],
        "images": list(images),
        "tempo": origin_of(pair),
    }


def origin_of(pair: Pair) -> Row:
    """The value of the column `tempo`."""
    # `datasets` cannot infer the type of a list that is empty in every row.
    return {name: value for name in _ORIGIN if (value := getattr(pair, name)) != ()}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _tagged(pair: Pair) -> str:
    """The prompt after its video tag; raises ValueError if a text of the pair contains a media tag."""
    for text in (pair.prompt, pair.chosen, pair.rejected):
        if found := [tag for tag in TAGS if tag in text]:
            raise ValueError(
                f"pair {pair.id!r} contains {found[0]} in its text, for which this format expects a file. "
                "Export as trl or parquet"
            )
    return VIDEO_TAG + pair.prompt


def read_row(row: Any) -> Pair:
    """The pair in a row of any known format; `id` and `video_id` are empty unless the row states them.

    `video` is the path as written in the row, or empty. Messages have `role` and `content` or `from` and
    `value`. Without a column `prompt`, `chosen` may be a conversation that begins with it (TRL's implicit
    prompt), else the prompt is empty. Raises ValueError that names the column at fault.
    """
    check_row(row)
    if "messages" in row:
        turns, rejected = read_turns(row["messages"], "messages"), _text(row, "rejected_response")
    elif "chosen" in row:
        start = "conversations" if "conversations" in row else "prompt"
        prompt = read_turns(row[start], start, "user") if start in row else []
        turns, rejected = [*prompt, *read_turns(row["chosen"], "chosen")], _text(row, "rejected")
    else:
        raise ValueError(
            "not a known format: a row has prompt, chosen and rejected (TRL, Parquet), messages and "
            "rejected_response (ms-swift), or conversations, chosen and rejected (LLaMA-Factory); this one "
            f"has {', '.join(map(str, row)) or 'nothing'}"
        )
    roles = [turn.role for turn in turns]
    if roles not in (["user", "assistant"], ["assistant"]):
        raise ValueError(f"a pair has one question and one answer, this row has messages of {roles}")
    texts = {"prompt": untagged(turns[0].text) if len(turns) == 2 else "", "chosen": turns[-1].text}
    try:
        return Pair.model_validate(_origin(row) | texts | {"rejected": rejected, "video": read_video(row)})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None


def _origin(row: Row) -> Row:
    """The values of the column `tempo`; tempo's own rows, known by `video_id`, have a column for each."""
    values = row.get("tempo") or (row if "video_id" in row else {})
    if not isinstance(values, dict):
        raise ValueError(f"tempo: expected a table of values, got {str(values)[:60]!r}")
    return _ORIGIN | {name: values[name] for name in _ORIGIN if values.get(name) is not None}


def _text(row: Row, column: str) -> str:
    """The answer in a column: the last message, which is the assistant's."""
    if row.get(column) is None:
        raise ValueError(f"{column} is missing")
    turns = read_turns(row[column], column)
    if not turns or turns[-1].role != "assistant":
        raise ValueError(f"{column} should end with an answer, got {[turn.role for turn in turns]}")
    return turns[-1].text


def check_row(row: Any) -> None:
    """Raises ValueError for a row that is not a dict."""
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object of keys and values, got {str(row)[:60]!r}")


def read_turns(messages: Any, column: str, role: str = "assistant") -> list[Turn]:
    """The messages of a conversation; a lone text is one message of `role`. Raises ValueError."""
    if isinstance(messages, str):
        return [Turn(role, messages)]
    messages = [messages] if isinstance(messages, dict) else messages
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{column} should be a list of messages, got {str(messages)[:60]!r}")
    found = [str(message.get("role") or message.get("from")) for message in messages]
    return [
        Turn(_ROLES.get(name, name), _content(message, column))
        for name, message in zip(found, messages, strict=True)
    ]


def _content(message: Row, column: str) -> str:
    """The text of a message: a string, or the text parts of a list."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise ValueError(f"{column} has a message without text: {str(message)[:60]!r}")
    return content


def untagged(prompt: str, tags: Sequence[str] = (VIDEO_TAG,)) -> str:
    """The prompt without one of `tags` at its beginning or end; raises ValueError if more tags remain."""
    at_start = [prompt.removeprefix(tag).removeprefix("\n") for tag in tags if prompt.startswith(tag)]
    at_end = [prompt.removesuffix(tag).removesuffix("\n") for tag in tags if prompt.endswith(tag)]
    bare = next(iter((*at_start, *at_end)), prompt)
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
