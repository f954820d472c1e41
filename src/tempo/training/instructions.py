"""Questions about videos with their answers, for SFT phases: `training.instructions`.

A row is `question` and `answer`, or a conversation as LLaVA and others write it, `conversations` or
`messages`. The turns of a conversation become separate questions of its video: over the shared prefix none
of them sees another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tempo.core.row_files import read_file
from tempo.core.seeds import derive_seed
from tempo.engine.types import Context
from tempo.preference.importing import VIDEO_TAG, Row, Turn, check_row, read_turns, read_video, untagged
from tempo.video.frames import FrameStore
from tempo.video.library import find_video, read_library

KEY = "training.instructions"

CONVERSATIONS = ("conversations", "messages")

#: LLaVA calls every medium an image.
MEDIA_TAGS = (VIDEO_TAG, "<image>")


class Question(NamedTuple):
    """A question with its answer; `place` is its row in words.

    `video` is a path as written there, `video_id` an id of the run; one of them may be empty.
    """

    place: str
    video: str
    video_id: str
    question: str
    answer: str


class Asked(NamedTuple):
    """A question with its answer, and the id of the video that it is about."""

    video_id: str
    question: str
    answer: str


class Questions(NamedTuple):
    """What SFT phases learn from, and how many questions of the file are about videos that were set aside."""

    asked: list[Asked]
    num_aside: int


def instructions_path(context: Context) -> Path:
    """The instruction file: the user's, or that of the embedded world."""
    if context.config.synthetic:
        return context.directory / "synthetic" / "instructions.jsonl"
    return Path(context.config.training.instructions)


def read_questions(path: Path) -> list[Question]:
    """The questions of a file in its order; raises ValueError that names the row which holds none."""
    questions: list[Question] = []
    for place, row in read_file(path, KEY):
        try:
            questions += _read_row(place, row)
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {place}: {error}") from None
    return questions


def check_videos(context: Context) -> None:
    """Raises ValueError that names the row which asks about a video that the run does not have."""
    if context.config.training.instructions:
        _find_videos(context)


def usable_questions(context: Context) -> Questions:
    """The questions about videos whose frames are there, `max_instructions` of them drawn by the seed.

    Raises ValueError as `check_videos`, and where there is none.
    """
    frames = FrameStore(context.directory / "frames")
    found = _find_videos(context)
    has_frames = {name: frames.has(name) for name in {asked.video_id for asked in found} if name}
    usable = [asked for asked in found if has_frames.get(asked.video_id)]
    if not usable:
        path = instructions_path(context)
        raise ValueError(f"{KEY}: no question of {path} is about a video whose frames are there")
    config = context.config
    drawn = _draw(usable, config.training.max_instructions, seed=config.run.seed)
    return Questions(drawn, len(found) - len(usable))


def _find_videos(context: Context) -> list[Asked]:
    """All questions of the run's file; without the id of a video where that was set aside."""
    path, library = instructions_path(context), read_library(context)
    # A video has many questions, and a copy is read to its end to be known.
    ids: dict[tuple[str, str], str] = {}
    found = []
    for place, video, video_id, question, answer in read_questions(path):
        if (video, video_id) not in ids:
            try:
                ids[video, video_id] = find_video(library, video, video_id=video_id, folder=path.parent)
            except ValueError as error:
                raise ValueError(f"{KEY}: {path} {place}: {error}") from None
        found.append(Asked(ids[video, video_id], question, answer))
    return found


def _draw(asked: Sequence[Asked], at_most: int | None, *, seed: int) -> list[Asked]:
    if at_most is None or at_most >= len(asked):
        return list(asked)
    order = np.random.default_rng(derive_seed(seed, "instructions")).permutation(len(asked))
    return [asked[index] for index in sorted(order[:at_most])]


def _read_row(place: str, row: Any) -> Iterator[Question]:
    check_row(row)
    video, video_id = read_video(row), str(row.get("video_id") or "")
    column = next((name for name in CONVERSATIONS if name in row), "")
    pairs = _pair_turns(read_turns(row[column], column), column) if column else [_read_plain(row)]
    for question, answer in pairs:
        yield Question(place, video, video_id, untagged(question, MEDIA_TAGS), answer)


def _pair_turns(turns: Sequence[Turn], column: str) -> list[tuple[str, str]]:
    roles = [turn.role for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"{column} should hold user and assistant by turns, got {roles}")
    return [(asked.text, said.text) for asked, said in zip(turns[::2], turns[1::2], strict=True)]


def _read_plain(row: Row) -> tuple[str, str]:
    found = row.get("question"), row.get("answer")
    if not isinstance(found[0], str) or not isinstance(found[1], str):
        raise ValueError(
            "no instruction: it should have question and answer, or a conversation as "
            f"{' or '.join(CONVERSATIONS)}; it has {', '.join(map(str, row)) or 'nothing'}"
        )
    return found[0], found[1]
