"""What a training step takes: one video's answers as one group over a shared prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tempo.model.loading import VideoLM
from tempo.model.prefix import Group
from tempo.records import Instruction, Pair, Video
from tempo.sections import PhaseConfig
from tempo.store import read_rows
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Lesson:
    """A group before its frames are read: chosen and rejected answers, or questions with answers."""

    id: str
    video_id: str
    prompt: str = ""
    answers: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()

    def group(self, lm: VideoLM, frames: FrameStore) -> Group:
        """The tokens and pixels of this lesson."""
        stored = frames.read(self.video_id)
        if self.questions:
            return lm.question_group(stored.frames, self.questions, fps=stored.fps)
        return lm.answer_group(stored.frames, self.prompt, self.answers, fps=stored.fps)


def dpo_lessons(pairs: Iterable[Pair], phase: PhaseConfig) -> list[Lesson]:
    """One lesson per video and level that the phase asks for: chosen first, then the rejected answers."""
    wanted = [
        pair
        for pair in pairs
        if (not phase.levels or pair.level in phase.levels) and (not phase.kinds or pair.kind in phase.kinds)
    ]
    wanted.sort(key=lambda pair: (pair.video_id, pair.level, pair.id))
    lessons = []
    for (video_id, level), rows in groupby(wanted, key=lambda pair: (pair.video_id, pair.level)):
        alike = list(rows)
        answers = (alike[0].chosen, *(pair.rejected for pair in alike))
        lessons.append(Lesson(f"{video_id}/{level}", video_id, prompt=alike[0].prompt, answers=answers))
    return lessons


def sft_lessons(path: Path, videos: Sequence[Video], frames: FrameStore) -> list[Lesson]:
    """One lesson per video of the instruction file at `path`: all its questions.

    Raises ValueError that names the line, or the video that the run does not have.
    """
    known = {str(Path(video.path).resolve()): video.id for video in videos}
    rows: dict[str, list[tuple[str, str]]] = {}
    for row in read_rows(path, Instruction, key="training.instructions"):
        video = str((path.parent / row.video).resolve())
        if video not in known:
            raise ValueError(
                f"{path}: {row.id!r} asks about {row.video}, which is not among the videos of this run"
            )
        if frames.has(known[video]):
            rows.setdefault(known[video], []).append((row.question, row.answer))
    return [Lesson(f"{video_id}/sft", video_id, questions=tuple(rows[video_id])) for video_id in sorted(rows)]


def check_lengths(lessons: Sequence[Lesson], lm: VideoLM, frames: FrameStore, *, max_tokens: int) -> None:
    """Raises ValueError that names the longest lesson if its packed row does not fit."""
    longest = max(((sum(lesson.group(lm, frames).lengths), lesson.id) for lesson in lessons), default=(0, ""))
    if longest[0] > max_tokens:
        raise ValueError(
            f"{longest[1]}: its packed row has {longest[0]} tokens, training.max_tokens is {max_tokens}; "
            "raise it, or lower frames.max_frames, frames.fps or frames.max_pixels"
        )


def pack_rows(groups: Sequence[Group], *, max_tokens: int) -> list[list[Group]]:
    """The groups of a batch in as few rows of at most `max_tokens` as their order allows."""
    rows: list[list[Group]] = []
    free = 0
    for group in groups:
        size = sum(group.lengths)
        if size > free:
            rows.append([])
            free = max_tokens
        rows[-1].append(group)
        free -= size
    return rows
