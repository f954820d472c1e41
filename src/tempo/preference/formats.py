"""Pairs as rows of other trainers' preference data, and such rows read again.

What a format has no column for stands in one extra column, `tempo`. All three trainers drop columns that
they do not know; a name of its own keeps it from meaning something to them (ms-swift takes `video` for
`videos`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from tempo.core.records import Frozen, Pair, PairKind
from tempo.preference.conversations import TAGS, VIDEO_TAG, Row, check_row, read_turns, read_video, untagged


class Origin(Frozen):
    """What only tempo knows of a pair; a row made elsewhere has none of it."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    id: str = ""
    video_id: str = ""
    kind: PairKind = "other"
    level: int = Field(0, ge=0)
    order: tuple[int, ...] = ()
    num_clips: int = Field(0, ge=0)
    frames: tuple[int, ...] = ()


class Draft(NamedTuple):
    """What a row says; `video` is a path as written there, empty where the row has none."""

    video: str
    prompt: str
    chosen: str
    rejected: str
    origin: Origin


def origin_of(pair: Pair) -> Row:
    """The value of the column `tempo`."""
    # A list that is empty in every row has no type, and `datasets` would not read it.
    return {name: getattr(pair, name) for name in Origin.model_fields if name != "frames" or pair.frames}


def ms_swift_row(pair: Pair, video: str) -> Row:
    """`messages` that end in the chosen answer, `rejected_response`, `videos`; ValueError as in `tagged`."""
    return {
        "messages": [_said("user", tagged(pair)), _said("assistant", pair.chosen)],
        "rejected_response": pair.rejected,
        "videos": [video],
        "tempo": origin_of(pair),
    }


def llama_factory_row(pair: Pair, video: str) -> Row:
    """`conversations` up to the question, `chosen`, `rejected`, `videos`; ValueError as in `tagged`."""
    return {
        "conversations": [{"from": "human", "value": tagged(pair)}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [video],
        "tempo": origin_of(pair),
    }


def trl_row(pair: Pair, images: Sequence[str]) -> Row:
    """`prompt`, `chosen` and `rejected` as messages, and the frames as `images`: TRL 1.16 takes no video."""
    return {
        "prompt": [_said("user", pair.prompt)],
        "chosen": [_said("assistant", pair.chosen)],
        "rejected": [_said("assistant", pair.rejected)],
        "images": list(images),
        "tempo": origin_of(pair),
    }


def tagged(pair: Pair) -> str:
    """The prompt behind its video tag; raises ValueError if a text of the pair holds a tag already."""
    for text in (pair.prompt, pair.chosen, pair.rejected):
        if found := [tag for tag in TAGS if tag in text]:
            raise ValueError(
                f"pair {pair.id!r} says {found[0]} in its text, which this format would take for another "
                "video or picture; export it as trl or parquet"
            )
    return VIDEO_TAG + pair.prompt


def read_row(row: Any) -> Draft:
    """The pair that a row of any known format holds; raises ValueError that says what is missing or odd."""
    check_row(row)
    for column, read in _READERS.items():
        if column in row:
            prompt, chosen, rejected = read(row)
            return Draft(read_video(row), untagged(prompt), chosen, rejected, _origin(row))
    raise ValueError(
        "none of the known formats: it should have prompt, chosen and rejected (TRL, Parquet), messages and "
        f"rejected_response (ms-swift), or conversations, chosen and rejected (LLaMA-Factory); it has "
        f"{', '.join(map(str, row)) or 'nothing'}"
    )


def _read_ms_swift(row: Row) -> tuple[str, str, str]:
    turns = _turns(row["messages"], ("user", "assistant"), "messages")
    return turns[0], turns[1], _text(row, "rejected_response")


def _read_llama_factory(row: Row) -> tuple[str, str, str]:
    (prompt,) = _turns(row["conversations"], ("user",), "conversations")
    return prompt, _text(row, "chosen"), _text(row, "rejected")


def _read_prompt(row: Row) -> tuple[str, str, str]:
    return _text(row, "prompt", "user"), _text(row, "chosen"), _text(row, "rejected")


_READERS: dict[str, Callable[[Row], tuple[str, str, str]]] = {
    "messages": _read_ms_swift,
    "conversations": _read_llama_factory,
    "prompt": _read_prompt,
}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _text(row: Row, column: str, role: str = "assistant") -> str:
    """A text column: a string, a message, or a list of one message."""
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise ValueError(f"{column} is missing")
    return _turns([value] if isinstance(value, dict) else value, (role,), column)[0]


def _turns(messages: Any, roles: tuple[str, ...], column: str) -> list[str]:
    """What was said in a conversation of exactly these roles."""
    turns = read_turns(messages, column)
    if tuple(turn.role for turn in turns) != roles:
        found = [turn.role for turn in turns]
        raise ValueError(f"{column} should hold {' and '.join(roles)}, one message each, got {found}")
    return [turn.text for turn in turns]


def _origin(row: Row) -> Origin:
    """What the row says in its column `tempo`; tempo's own rows say it in columns, known by `video_id`."""
    fields = row.get("tempo") or (row if "video_id" in row else {})
    if not isinstance(fields, dict):
        raise ValueError(f"tempo should be a table of values, got {str(fields)[:60]!r}")
    try:
        return Origin.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None
