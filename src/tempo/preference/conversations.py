"""What rows of other trainers' data have in common: who says what, media tags, one video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

#: Stands for the video in a text of ms-swift and LLaMA-Factory.
VIDEO_TAG = "<video>"
TAGS = (VIDEO_TAG, "<image>", "<audio>")

Row: TypeAlias = dict[str, Any]

#: Names that the formats give to who speaks and to what is said.
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class Turn(NamedTuple):
    """What one side says: `user`, `assistant`, or a role of another name."""

    role: str
    text: str


def check_row(row: Any) -> None:
    """Raises ValueError for a row without names."""
    if not isinstance(row, dict):
        raise ValueError(f"not a row of named values but {str(row)[:60]!r}")


def read_turns(messages: Any, column: str) -> list[Turn]:
    """The turns of a conversation, `role` and `content` or `from` and `value`; raises ValueError."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{column} should be a list of messages, got {str(messages)[:60]!r}")
    found = [str(message.get("role") or message.get("from")) for message in messages]
    return [
        Turn(_ROLES.get(role, role), _content(message, column))
        for role, message in zip(found, messages, strict=True)
    ]


def untagged(prompt: str, tags: Sequence[str] = (VIDEO_TAG,)) -> str:
    """The prompt without the one of `tags` at its beginning or end; ValueError if more stands in it."""
    at_start = [prompt.removeprefix(tag).removeprefix("\n") for tag in tags if prompt.startswith(tag)]
    at_end = [prompt.removesuffix(tag).removesuffix("\n") for tag in tags if prompt.endswith(tag)]
    bare = next(iter((*at_start, *at_end)), prompt)
    if found := [tag for tag in TAGS if tag in bare]:
        raise ValueError(f"the prompt holds {found[0]} beside the one video that it is about")
    return bare


def read_video(row: Row) -> str:
    """The path of the row's one video as written there, empty where it has none; raises ValueError."""
    videos = row.get("videos", row.get("video")) or []
    videos = [videos] if isinstance(videos, str) else videos
    if not isinstance(videos, list) or len(videos) > 1 or not all(isinstance(path, str) for path in videos):
        raise ValueError(f"a row is about one video file, got {str(videos)[:80]}")
    return videos[0] if videos else ""


def _content(message: Mapping[str, Any], column: str) -> str:
    """The words of a message: a string, or the text among its parts."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise ValueError(f"{column} holds a message without text: {str(message)[:60]!r}")
    return content
