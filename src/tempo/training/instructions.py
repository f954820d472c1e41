"""Questions about videos with their answers, for SFT phases: the file `training.instructions`.

A row has `question` and `answer`, or a conversation in `conversations` or `messages` as LLaVA, ms-swift and
LLaMA-Factory write it. The turns of a conversation become separate questions about its video: over the shared
prefix, none of them sees the others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tempo.core.hashing import derive_seed
from tempo.engine.types import Context
from tempo.preference.importing import VIDEO_TAG, parse_rows, read_turns, read_video, untagged
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "training.instructions"


class Question(NamedTuple):
    """A question with its answer.

    In a file, `video` (a path as written there) or `video_id` (an id of the run) may be empty, and `place`
    is the row that it is from.
    """

    video_id: str
    question: str
    answer: str
    video: str = ""
    place: str = ""


def instructions_path(context: Context) -> Path:
    """The file of instructions: the user's, or the one that the synthetic data comes with."""
    if context.config.synthetic:
        return context.directory / "synthetic" / "instructions.jsonl"
    return Path(context.config.training.instructions)


def read_questions(path: Path) -> list[Question]:
    """The questions of a file in file order; raises ValueError that names the first row that is not valid."""

    def parse(row: dict[str, Any]) -> list[Question]:
        video, video_id = read_video(row), str(row.get("video_id") or "")
        # LLaVA writes `<image>` for a video too.
        texts = [(untagged(asked, (VIDEO_TAG, "<image>")), answer) for asked, answer in _read_texts(row)]
        return [Question(video_id, question, answer, video) for question, answer in texts]

    rows = parse_rows(path, KEY, parse)
    return [question._replace(place=place) for place, found in rows for question in found]


def check_videos(context: Context) -> None:
    """Raises ValueError that names the first row about a video that the run does not have."""
    if context.config.training.instructions:
        _find_videos(context)


def usable_questions(context: Context) -> tuple[list[Question], int]:
    """The questions about videos with stored frames, and how many others were left out.

    At most `training.max_instructions` of them, drawn by the run's seed. Raises ValueError as `check_videos`
    does, and if there are none.
    """
    frames = FrameStore(context.directory / "frames")
    found = _find_videos(context)
    has_frames = {name: frames.has(name) for name in {question.video_id for question in found} if name}
    usable = [question for question in found if has_frames.get(question.video_id)]
    if not usable:
        path = instructions_path(context)
        raise ValueError(f"{KEY}: no question in {path} is about a video with stored frames")
    generator = np.random.default_rng(derive_seed(context.config.run.seed, "instructions"))
    drawn = generator.permutation(len(usable))[: context.config.training.max_instructions]
    return [usable[index] for index in sorted(drawn)], len(found) - len(usable)


def _find_videos(context: Context) -> list[Question]:
    """All questions of the run's file with the ids of their videos, which are empty for skipped videos."""
    path, library = instructions_path(context), read_library(context)

    # Many questions share a video, and recognizing a copy reads the whole file.
    @functools.cache
    def find(video: str, video_id: str) -> str:
        return find_video(library, video, video_id=video_id, folder=path.parent)

    found = []
    for question in read_questions(path):
        try:
            found.append(question._replace(video_id=find(question.video, question.video_id)))
        except ValueError as error:
            raise ValueError(f"{KEY}: {path} {question.place}: {error}") from None
    return found


def _read_texts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The questions and answers of a row."""
    column = next((name for name in ("conversations", "messages") if name in row), None)
    if column:
        turns = read_turns(row[column], column)
        roles = [role for role, _ in turns]
        if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{column} must alternate between user and assistant, got {roles}")
        yield from ((asked, reply) for (_, asked), (_, reply) in zip(turns[::2], turns[1::2], strict=True))
    elif isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        yield row["question"], row["answer"]
    else:
        raise ValueError(
            "not a valid instruction: it needs question and answer, or a conversation in conversations or "
            f"messages; it has {', '.join(map(str, row)) or 'no columns'}"
        )
