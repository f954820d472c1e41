"""Training examples from pairs and questions, packed into rows of at most `training.max_tokens` tokens."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TypeAlias

from tempo.config import DpoPhase, SftPhase
from tempo.core.records import Clips, Pair, PairKind, Video, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.chat import Continuation, Prefix, VideoLM, check_positions, max_positions
from tempo.model.loading import load_without_weights
from tempo.model.prefix import Group
from tempo.training.instructions import Question
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Example:
    """One video with its prompt (the shared prefix) and its answers, before frames and tokens are loaded.

    For DPO, `answers` holds the chosen answer to `prompt`, then the rejected ones; `labels` has kind and
    level, and `pair_ids` the id of the pair, of each rejected one. For SFT, `questions` holds (question,
    answer) pairs. For GRPO, `advantages` has that of each sampled answer. `frames` are indices into the
    stored frames, for a pair that shows the perturbed video; empty means all of them in order. If `system` is
    empty, the chat template chooses the system prompt.
    """

    id: str
    video_id: str
    prompt: str = ""
    answers: tuple[str, ...] = ()
    labels: tuple[tuple[PairKind, int], ...] = ()
    pair_ids: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    frames: tuple[int, ...] = ()
    system: str = ""
    advantages: tuple[float, ...] = ()

    def load(self, lm: VideoLM, frames: FrameStore | None) -> Group:
        """The tokens and pixels of this example; without `frames`, only the tokens of its text."""
        images, fps, seconds = None, 1.0, []
        if frames:
            stored = frames.read(self.video_id)
            images, fps = stored.images[list(self.frames) if self.frames else slice(None)], stored.fps
            seconds = stored.seconds.tolist()
        rows = [Continuation(answer, question) for question, answer in self.questions] or self.answers
        prefix = Prefix(images, self.prompt, fps=fps, seconds=seconds, system=self.system)
        return lm.group(prefix, rows)


#: An example with its tokens and pixels.
LoadedExample: TypeAlias = tuple[Example, Group]


def dpo_examples(pairs: Iterable[Pair], phase: DpoPhase) -> list[Example]:
    """The pairs of the phase's levels and kinds, grouped into examples by `phase.grouping`, sorted by video.

    Only pairs with the same frames, prompts and chosen answer share an example; its id is that of the first.
    """

    def key(pair: Pair) -> tuple[str, int, str, str, str, tuple[int, ...], str]:
        level = 0 if phase.grouping == "video" else pair.level
        own_id = pair.id if phase.grouping == "pair" else ""
        return pair.video_id, level, own_id, pair.prompt, pair.chosen, pair.frames, pair.system

    selected = [
        pair
        for pair in pairs
        if (not phase.levels or pair.level in phase.levels) and (not phase.kinds or pair.kind in phase.kinds)
    ]
    examples = []
    for _, group in groupby(sorted(selected, key=lambda pair: (key(pair), pair.level, pair.id)), key=key):
        first, *others = group
        answers = (first.chosen, first.rejected, *(pair.rejected for pair in others))
        pairs = first, *others
        labels, ids = tuple((pair.kind, pair.level) for pair in pairs), tuple(pair.id for pair in pairs)
        shown = first.frames, first.system
        examples.append(Example(first.id, first.video_id, first.prompt, answers, labels, ids, (), *shown))
    return examples


def sft_examples(questions: Iterable[Question], phase: SftPhase) -> list[Example]:
    """One example per video with all its questions, or one per question if `phase.grouping` is "pair".

    Sorted by video; the questions of a video keep their order. Questions with different system prompts
    are in different examples.
    """
    examples, numbers, key = list[Example](), Counter[str](), attrgetter("video_id", "system")
    for (video, system), group in groupby(sorted(questions, key=key), key=key):
        rows = tuple((question.question, question.answer) for question in group)
        for part in [(row,) for row in rows] if phase.grouping == "pair" else [rows]:
            numbers[video] += 1
            examples.append(Example(f"{video}/sft-{numbers[video]}", video, questions=part, system=system))
    return examples


def fit_examples(
    examples: Sequence[Example],
    lm: VideoLM,
    frames: FrameStore,
    *,
    max_tokens: int,
    limit: int | None = None,
    video_lengths: dict[tuple[str, int], int],
) -> list[Example]:
    """The examples, with those that exceed a row of `max_tokens` tokens divided into several of that video.

    Each part has the chosen answer and some rejected ones, or some of the questions. Raises ValueError that
    names an example if a single pair or question is too long for a row, or its prompt and answer have more
    tokens than `limit`, by default the number of positions of the model.

    `video_lengths` maps video and number of frames to a number of tokens. It is filled here: frames are read
    only for missing keys, so that the phases of a run measure each video once.
    """
    sizes, limit, parts = [], limit or max_positions(lm.model.config), list[Example]()
    for example in examples:
        prefix, *answers = example.load(lm, None).lengths
        key = example.video_id, len(example.frames)
        if key not in video_lengths:
            video_lengths[key] = sum(example.load(lm, frames).lengths) - prefix - sum(answers)
        num_video, num_text = video_lengths[key], prefix + max(answers)
        check_positions(example.id, num_video=num_video, num_text=num_text, limit=limit)
        # All parts have the chosen answer.
        shared, divided = (0, answers) if example.questions else (answers[0], answers[1:])
        shared += num_video + prefix
        sizes.append((shared + max(divided, default=0), example.id))
        starts, size = [0], shared
        for index, length in enumerate(divided):
            if size + length > max_tokens and size > shared:
                starts.append(index)
                size = shared
            size += length
        parts += [_part(example, *ends) for ends in pairwise([*starts, len(divided)])]
    size, name = max(sizes)
    if size > max_tokens:
        raise ValueError(
            f"{name}: its packed row has {size} tokens, but training.max_tokens is {max_tokens}. "
            "Raise it, or lower frames.fps, frames.max_frames, frames.max_pixels or frames.max_total_pixels"
        )
    return parts


def _part(example: Example, start: int, end: int) -> Example:
    """The example with some of its rejected answers or questions."""
    return replace(
        example,
        id=f"{example.id}/{start}" if start else example.id,
        answers=(*example.answers[:1], *example.answers[1 + start : 1 + end]),
        labels=example.labels[start:end],
        pair_ids=example.pair_ids[start:end],
        questions=example.questions[start:end],
    )


def check_longest(context: Context, questions: Sequence[Question]) -> None:
    """Raises ValueError if a video with clips has more than `training.max_tokens` tokens without answers, or
    if it or a question has more tokens than the model supports.

    Loads no weights, so it can run before captioning.
    """
    config, training = context.config, context.config.training
    examples = [
        Example(
            f"{training.instructions} {row.place}",
            row.video_id,
            questions=((row.question, row.answer),),
            system=row.system,
        )
        for row in sorted(questions, key=lambda row: len(row.question + row.answer))[-1:]
    ]
    if training.phases or config.responses.input_form == "video":
        examples += _largest_videos(context)
    if not examples:
        return
    lm, limit = load_without_weights(config.model)
    frames = FrameStore(context.directory / "frames")
    max_tokens = training.max_tokens if training.phases else sys.maxsize
    # Before videos are decoded, only the text counts.
    lengths = {(row.video_id, 0): 0 for row in examples if not frames.has(row.video_id)}
    fit_examples(examples, lm, frames, max_tokens=max_tokens, limit=limit, video_lengths=lengths)


def _largest_videos(context: Context) -> list[Example]:
    """Examples without answers of the longest video with clips, and of the one with the most pixels."""
    store, config = RunStore(context.directory), context.config.frames
    frames = FrameStore(context.directory / "frames")
    sizes = {video.id: video.width * video.height for video in store.read("videos", Video)}
    # The decoded duration, because a container may declare a wrong one or none.
    rows = [row for row in store.read("clips", Clips) if frames.has(row.id)]

    def num_pixels(row: Clips) -> float:
        num_frames = min(row.duration_seconds * config.fps, config.max_frames)
        return num_frames * min(sizes[file_of(row.id)], config.max_pixels)

    # Which of the two has more tokens depends on the model.
    longest = sorted(rows, key=lambda row: row.duration_seconds)[-1:]
    largest = sorted(rows, key=num_pixels)[-1:]
    return [Example(row.path, row.id, answers=("",)) for row in (*longest, *largest)]


def pack_rows(batch: Sequence[LoadedExample], *, max_tokens: int) -> list[list[LoadedExample]]:
    """The examples in order, in as few rows of at most `max_tokens` tokens as that order allows."""
    rows: list[list[LoadedExample]] = []
    free = 0
    for example, group in batch:
        size = sum(group.lengths)
        if size > free:
            rows.append([])
            free = max_tokens
        rows[-1].append((example, group))
        free -= size
    return rows
