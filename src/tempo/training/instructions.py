"""Questions about videos with their answers, for SFT phases: the file `training.instructions`.

A row has `question` and `answer`, or a conversation in `conversations` or `messages` as LLaVA, ms-swift and
LLaMA-Factory write it. Its turns become separate questions, which do not attend to each other but share its
system prompt.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tempo.core.files import MAX_BAD_SHARE, UserFile, read_user_file
from tempo.core.hashing import derive_seed
from tempo.core.records import Pair, Skipped, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.importing import read_text, read_turns, read_video, untagged
from tempo.preference.pairs import HELD_OUT
from tempo.video.find import find_video, read_library
from tempo.video.frames import FrameStore

KEY = "training.instructions"


class Question(NamedTuple):
    """A question about a video, with its answer and its place in the file."""

    video_id: str
    question: str
    answer: str
    system: str = ""
    place: str = ""


def read_questions(
    path: Path,
    *,
    max_bad_share: float = MAX_BAD_SHARE,
    find: Callable[[str, str], str] = lambda video, video_id: video_id,
) -> UserFile[list[Question]]:
    """The questions of each row of a file; `find` gives the id of a video from its path and id in the row.

    A warning names the bad rows; raises ValueError if their share is above `max_bad_share`.
    """

    def parse(row: dict[str, Any]) -> list[Question]:
        (system, texts), video = _read_texts(row), find(read_video(row), str(row.get("video_id", "")))
        return [Question(video, untagged(question), answer, system) for question, answer in texts]

    return read_user_file(path, KEY, parse).check(max_bad_share)


def usable_questions(context: Context) -> tuple[list[Question], int]:
    """The questions about videos that the run trains on, and the number of other questions.

    At most `training.max_instructions` of them, drawn with the run's seed. Raises ValueError as
    `match_questions` does, and if no question is left.
    """
    frames, found = FrameStore(context.directory / "frames"), match_questions(context)[0]
    held_out = {file_of(pair.video_id) for pair in RunStore(context.directory).read(HELD_OUT, Pair)}
    names = {question.video_id for question in found}
    is_used = {name: bool(name) and frames.has(name) and file_of(name) not in held_out for name in names}
    usable = [question for question in found if is_used[question.video_id]]
    if not usable:
        raise ValueError(
            f"{KEY}: no question is about a video that the run trains on: all were skipped or are held out. "
            "`tempo status` shows why videos were skipped"
        )
    generator = np.random.default_rng(derive_seed(context.config.run.seed, "instructions"))
    drawn = generator.permutation(len(usable))[: context.config.training.max_instructions]
    return [usable[index] for index in sorted(drawn)], len(found) - len(usable)


def match_questions(context: Context) -> tuple[list[Question], list[Skipped]]:
    """All questions of a run with the ids of their videos, which are empty for skipped videos.

    They come from the file of the synthetic data, or from the user's file. Bad rows and empty answers are
    skipped. A row about a video that the run does not have is bad. Raises ValueError that names the bad rows
    if they are more than `run.max_bad_share`.
    """
    path, library = Path(context.config.training.instructions), read_library(context)
    if context.config.synthetic:
        path = context.directory / "synthetic" / "instructions.jsonl"

    # Many questions share a video, and recognizing a copy reads the whole file.
    @functools.cache
    def find(video: str, video_id: str) -> str:
        return find_video(library, video, video_id=video_id, folder=path.parent)

    file = read_questions(path, max_bad_share=context.config.run.max_bad_share, find=find)
    faults = [(place, "bad row", fault) for place, fault in file.faults.items()]
    found = [question._replace(place=place) for place, row in file.rows.items() for question in row]
    faults += [(row.place, "empty answer", row.question) for row in found if not row.answer.strip()]
    skipped = [Skipped(stage="training", id=f"{path.name} {p}", reason=r, detail=d) for p, r, d in faults]
    return [question for question in found if question.answer.strip()], skipped


def _read_texts(row: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The system prompt, and the questions and answers of a row."""
    column = next((name for name in ("conversations", "messages") if row.get(name)), None)
    if column:
        system, turns = read_turns(row, column)
        roles = [role for role, _ in turns]
        if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{column} must alternate between user and assistant, got {roles}")
        pairs = zip(turns[::2], turns[1::2], strict=True)
        return system, [(question, reply) for (_, question), (_, reply) in pairs]
    if "question" not in row or "answer" not in row:
        raise ValueError(f"a row needs question and answer, conversations, or messages; it has {list(row)}")
    system, question, answer = (
        read_text(row.get(name, ""), name) for name in ("system", "question", "answer")
    )
    return system, [(question, answer)]
