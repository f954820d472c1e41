"""Questions about videos with their answers, for SFT phases: the file `training.instructions`.

A row has `question` and `answer`, or a conversation in `conversations` or `messages` as LLaVA, ms-swift and
LLaMA-Factory write it. Its turns become separate questions, which do not see each other.
"""

from __future__ import annotations

import functools
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
    """A question with its answer. `video` is the path as the file has it, `place` the row of the file."""

    video_id: str
    question: str
    answer: str
    video: str = ""
    place: str = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file in file order; raises ValueError that names the first row that is not valid."""

    def parse(row: dict[str, Any]) -> list[Question]:
        video, video_id = read_video(row), str(row.get("video_id") or "")
        # LLaVA writes `<image>` for a video too.
        texts = [(untagged(asked, (VIDEO_TAG, "<image>")), answer) for asked, answer in _read_texts(row)]
        return [Question(video_id, question, answer, video) for question, answer in texts]

    rows = parse_rows(path, KEY, parse)
    return [question._replace(place=place) for place, found in rows for question in found]


def usable_questions(context: Context) -> tuple[list[Question], int]:
    """The questions about videos with stored frames, and how many others were left out.

    At most `training.max_instructions` of them, drawn by the run's seed. Raises ValueError as
    `match_questions` does, and if there are none.
    """
    frames, found = FrameStore(context.directory / "frames"), match_questions(context)
    has_frames = {name: bool(name) and frames.has(name) for name in {asked.video_id for asked in found}}
    usable = [question for question in found if has_frames[question.video_id]]
    if not usable:
        raise ValueError(f"{KEY}: no question is about a video with stored frames. `tempo status` shows why")
    generator = np.random.default_rng(derive_seed(context.config.run.seed, "instructions"))
    drawn = generator.permutation(len(usable))[: context.config.training.max_instructions]
    return [usable[index] for index in sorted(drawn)], len(found) - len(usable)


def match_questions(context: Context) -> list[Question]:
    """All questions of a run with the ids of their videos, which are empty for skipped videos.

    They are in the file that synthetic data comes with, or in the user's. Raises ValueError that names the
    first row about a video that the run does not have.
    """
    path, library = Path(context.config.training.instructions), read_library(context)
    if context.config.synthetic:
        path = context.directory / "synthetic" / "instructions.jsonl"

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


def _read_texts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The questions and answers of a row."""
    column = next((name for name in ("conversations", "messages") if name in row), None)
    if column:
        turns = read_turns(row[column], column)
        roles = [role for role, _ in turns]
        if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{column} must alternate between user and assistant, got {roles}")
        return [(asked, reply) for (_, asked), (_, reply) in zip(turns[::2], turns[1::2], strict=True)]
    if not isinstance(row.get("question"), str) or not isinstance(row.get("answer"), str):
        raise ValueError(f"a row needs question and answer, conversations, or messages; it has {list(row)}")
    return [(row["question"], row["answer"])]
