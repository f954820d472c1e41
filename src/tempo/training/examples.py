"""From pairs and questions to training examples, and how long they may be.

An example is one video with its prompt (the shared prefix) and all answers over it. Examples are packed into
rows of at most `training.max_tokens` tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from tempo.config import DpoPhase, SftPhase
from tempo.core.records import Clips, Pair, PairKind, Video
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.loading import load_processor
from tempo.model.prefix import Group
from tempo.training.instructions import Question
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Example:
    """One video with its answers, before frames are read and text is tokenized.

    For DPO, `answers` holds the chosen answer to `prompt`, then the rejected ones, and `labels` the kind and
    level of each rejected one. For SFT, `questions` holds (question, answer) pairs. `frames` are indices into
    the stored frames, for a pair that shows the video perturbed; empty means all of them in order.
    """

    id: str
    video_id: str
    prompt: str = ""
    answers: tuple[str, ...] = ()
    labels: tuple[tuple[PairKind, int], ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    frames: tuple[int, ...] = ()

    def load(self, lm: VideoLM, frames: FrameStore | None) -> Group:
        """The tokens and pixels of this example; without `frames` those of its text alone."""
        images, fps = None, 1.0
        if frames:
            stored = frames.read(self.video_id)
            images, fps = stored.images[list(self.frames) if self.frames else slice(None)], stored.fps
        rows = [Continuation(answer, question) for question, answer in self.questions] or self.answers
        return lm.group(Prefix(images, self.prompt, fps=fps), rows)


class LoadedExample(NamedTuple):
    """An example with its tokens and pixels."""

    example: Example
    group: Group


def selects(phase: DpoPhase, pair: Pair) -> bool:
    """Whether a DPO phase trains on the pair, by its `levels` and `kinds`."""
    return (not phase.levels or pair.level in phase.levels) and (not phase.kinds or pair.kind in phase.kinds)


def dpo_examples(pairs: Iterable[Pair], phase: DpoPhase) -> list[Example]:
    """The pairs that the phase selects, as examples by `phase.grouping`, sorted by video.

    Pairs share an example only if they share video, frames, prompt and chosen answer.
    """

    def key(pair: Pair) -> tuple[str, int, str, str, str, tuple[int, ...]]:
        level = 0 if phase.grouping == "video" else pair.level
        own_id = pair.id if phase.grouping == "pair" else ""
        return pair.video_id, level, own_id, pair.prompt, pair.chosen, pair.frames

    selected = sorted((p for p in pairs if selects(phase, p)), key=lambda p: (key(p), p.level, p.id))
    num_seen: Counter[str] = Counter()
    examples = []
    for _, group in groupby(selected, key=key):
        rows = list(group)
        first = rows[0]
        names = {"video": first.video_id, "level": f"{first.video_id}/{first.level}", "pair": first.id}
        name = names[phase.grouping]
        num_seen[name] += 1
        # A video with several chosen answers makes several examples, which need different ids.
        name = name if num_seen[name] == 1 else f"{name}#{num_seen[name]}"
        answers = (first.chosen, *(pair.rejected for pair in rows))
        labels = tuple((pair.kind, pair.level) for pair in rows)
        examples.append(
            Example(name, first.video_id, first.prompt, answers, labels=labels, frames=first.frames)
        )
    return examples


def sft_examples(questions: Iterable[Question], phase: SftPhase) -> list[Example]:
    """One example per video with all its questions, or one per question if `phase.grouping` is "pair".

    Sorted by video; the questions of a video keep their order.
    """
    by_video: dict[str, list[tuple[str, str]]] = {}
    for asked in questions:
        by_video.setdefault(asked.video_id, []).append((asked.question, asked.answer))
    examples = []
    for video, rows in sorted(by_video.items()):
        parts = [(row,) for row in rows] if phase.grouping == "pair" else [tuple(rows)]
        examples += [Example(f"{video}/sft-{n}", video, questions=part) for n, part in enumerate(parts, 1)]
    return examples


def check_lengths(
    examples: Sequence[Example],
    lm: VideoLM,
    frames: FrameStore,
    *,
    max_tokens: int,
    video_lengths: dict[tuple[str, int], int],
) -> None:
    """Raises ValueError that names the longest example if it has more than `max_tokens` tokens.

    `video_lengths` is filled on the way: the number of tokens by video and number of frames. Frames are read
    only for what it does not hold, so that the phases of a run measure each video once.
    """
    sizes = {}
    for example in examples:
        text = sum(example.load(lm, None).lengths)
        key = example.video_id, len(example.frames)
        if key not in video_lengths:
            video_lengths[key] = sum(example.load(lm, frames).lengths) - text
        sizes[example.id] = video_lengths[key] + text
    longest = max(sizes, key=lambda name: sizes[name])
    if sizes[longest] > max_tokens:
        raise ValueError(
            f"{longest}: its packed row has {sizes[longest]} tokens, training.max_tokens is {max_tokens}. "
            "Raise it, set grouping = 'pair' in the phase if a row has several answers, or lower frames.fps, "
            "frames.max_frames, frames.max_pixels or frames.max_total_pixels"
        )


def check_longest(context: Context) -> None:
    """Raises ValueError if a video with clips has more than `training.max_tokens` tokens without answers.

    Needs the processor and the frames of two videos, but no weights, so it can run before captioning. A video
    that passes may still be too long with its answers (`check_lengths`).
    """
    store, config = RunStore(context.directory), context.config.frames
    frames = FrameStore(context.directory / "frames")
    # The decoded duration: a container may declare a wrong one, or none.
    seconds = {row.id: row.duration_seconds for row in store.read("clips", Clips)}
    videos = [video for video in store.read("videos", Video) if video.id in seconds and frames.has(video.id)]
    if not videos:
        return

    def num_frames(video: Video) -> float:
        return min(seconds[video.id] * config.fps, config.max_frames)

    def num_pixels(video: Video) -> float:
        pixels = num_frames(video) * min(video.width * video.height, config.max_pixels)
        return min(pixels, config.max_total_pixels or pixels)

    # Whether more frames or more pixels are more tokens depends on the model.
    largest = (max(videos, key=num_frames), max(videos, key=num_pixels))
    examples = [Example(video.path, video.id, answers=("",)) for video in largest]
    model = context.config.model
    processor = load_processor(model.path, trust_remote_code=model.trust_remote_code)
    lm = VideoLM(None, processor)
    check_lengths(examples, lm, frames, max_tokens=context.config.training.max_tokens, video_lengths={})


def pack_rows(batch: Sequence[LoadedExample], *, max_tokens: int) -> list[list[LoadedExample]]:
    """The examples in order, in as few rows of at most `max_tokens` tokens as that order allows."""
    rows: list[list[LoadedExample]] = []
    free = 0
    for loaded in batch:
        size = sum(loaded.group.lengths)
        if size > free:
            rows.append([])
            free = max_tokens
        rows[-1].append(loaded)
        free -= size
    return rows
