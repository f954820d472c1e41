"""What a training step takes: one video's answers as one group over a shared prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from tempo.config import DpoPhase, SftPhase
from tempo.core.records import Pair, PairKind
from tempo.model.loading import VideoLM
from tempo.model.prefix import Group
from tempo.training.instructions import Asked
from tempo.video.frames import FrameStore


class Label(NamedTuple):
    """The perturbation that a rejected answer came from."""

    kind: PairKind
    level: int


@dataclass(frozen=True)
class Lesson:
    """A group before its frames are read: chosen and rejected answers, or questions with answers.

    `answers` begins with the chosen one; `labels` has one entry for each of the others.
    """

    id: str
    video_id: str
    prompt: str = ""
    answers: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    #: Numbers of the stored frames that show the video perturbed; empty for the video as filmed.
    frames: tuple[int, ...] = ()

    @property
    def prefix(self) -> tuple[str, str]:
        """What the length of the prefix depends on: the video as it is shown, and the prompt."""
        shown = f"{self.video_id} ({len(self.frames)} frames)" if self.frames else self.video_id
        return shown, self.prompt

    def group(self, lm: VideoLM, frames: FrameStore) -> Group:
        """The tokens and pixels of this lesson."""
        stored = frames.read(self.video_id)
        shown = stored.frames[list(self.frames)] if self.frames else stored.frames
        return self._over(lm, shown, stored.fps)

    def num_answer_tokens(self, lm: VideoLM) -> int:
        """Tokens after the prefix, of all continuations together; no frame is read."""
        return sum(self._over(lm, None, 1.0).lengths[1:])

    def _over(self, lm: VideoLM, frames: np.ndarray | None, fps: float) -> Group:
        if self.questions:
            return lm.question_group(frames, self.questions, fps=fps)
        return lm.answer_group(frames, self.prompt, self.answers, fps=fps)


def dpo_lessons(pairs: Iterable[Pair], phase: DpoPhase) -> list[Lesson]:
    """The pairs that the phase asks for as lessons, by `phase.grouping`; sorted, whatever their order was.

    Pairs share a lesson only where they share video, frames, prompt and chosen answer.
    """
    wanted = [(_unit(pair, phase), pair) for pair in pairs if takes(phase, pair)]
    wanted.sort(key=lambda row: (row[0], row[1].level, row[1].id))
    units = [[pair for _, pair in rows] for _, rows in groupby(wanted, key=lambda row: row[0])]
    taken: Counter[str] = Counter()
    return [_lesson(alike, phase, taken) for alike in units]


def takes(phase: DpoPhase, pair: Pair) -> bool:
    """Whether a phase asks for a pair."""
    return (not phase.levels or pair.level in phase.levels) and (not phase.kinds or pair.kind in phase.kinds)


def _unit(pair: Pair, phase: DpoPhase) -> tuple[str, int, str, str, str, tuple[int, ...]]:
    """What the pairs of one lesson have in common."""
    level = 0 if phase.grouping == "video" else pair.level
    name = pair.id if phase.grouping == "pair" else ""
    return pair.video_id, level, name, pair.prompt, pair.chosen, pair.frames


def _lesson(alike: Sequence[Pair], phase: DpoPhase, taken: Counter[str]) -> Lesson:
    first = alike[0]
    names = {"video": first.video_id, "level": f"{first.video_id}/{first.level}", "pair": first.id}
    name = names[phase.grouping]
    taken[name] += 1
    return Lesson(
        # Several accounts of one video make several lessons, which must not share their name.
        id=name if taken[name] == 1 else f"{name}#{taken[name]}",
        video_id=first.video_id,
        prompt=first.prompt,
        answers=(first.chosen, *(pair.rejected for pair in alike)),
        labels=tuple(Label(pair.kind, pair.level) for pair in alike),
        frames=first.frames,
    )


def sft_lessons(asked: Iterable[Asked], phase: SftPhase) -> list[Lesson]:
    """One lesson per video with all its questions, or one per question where `phase.grouping` is "pair".

    Sorted by video; the questions of a video stay in their order.
    """
    by_video: dict[str, list[tuple[str, str]]] = {}
    for video_id, question, answer in asked:
        by_video.setdefault(video_id, []).append((question, answer))
    return [
        Lesson(f"{video_id}/{name}", video_id, questions=tuple(questions))
        for video_id in sorted(by_video)
        for name, questions in _sft_units(by_video[video_id], phase)
    ]


def _sft_units(
    questions: list[tuple[str, str]], phase: SftPhase
) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    if phase.grouping != "pair":
        return [("sft", questions)]
    return [(f"sft-{number}", [question]) for number, question in enumerate(questions, 1)]


def check_lengths(
    lessons: Sequence[Lesson],
    lm: VideoLM,
    frames: FrameStore,
    *,
    max_tokens: int,
    prefix_lengths: dict[tuple[str, str], int] | None = None,
) -> None:
    """Raises ValueError that names the longest lesson if its packed row does not fit.

    `prefix_lengths` (video and prompt to tokens) is filled on the way. Frames are read only for a prefix that
    is not in it, so the phases of a run, which share processor and frames, may share it.
    """
    known = {} if prefix_lengths is None else prefix_lengths
    sizes = ((_row_length(lesson, lm, frames, known), lesson) for lesson in lessons)
    size, lesson = max(sizes, key=lambda found: found[0], default=(0, None))
    if lesson and size > max_tokens:
        may_be_split = max(len(lesson.labels), len(lesson.questions)) > 1
        finer = ", set grouping = 'pair' in the phase" if may_be_split else ""
        raise ValueError(
            f"{lesson.id}: its packed row has {size} tokens, training.max_tokens is {max_tokens}; "
            f"raise it{finer}, or lower frames.max_frames, frames.fps or frames.max_pixels"
        )


def _row_length(lesson: Lesson, lm: VideoLM, frames: FrameStore, known: dict[tuple[str, str], int]) -> int:
    if lesson.prefix not in known:
        lengths = lesson.group(lm, frames).lengths
        known[lesson.prefix] = lengths[0]
        return sum(lengths)
    return known[lesson.prefix] + lesson.num_answer_tokens(lm)


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
