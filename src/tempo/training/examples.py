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

import numpy as np

from tempo.config import DpoPhase, FramesConfig, SftPhase
from tempo.core.records import Clips, Pair, PairKind, Video
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.loading import load_processor
from tempo.model.prefix import Group
from tempo.training.instructions import Question
from tempo.video.frames import FrameStore


class Label(NamedTuple):
    """The perturbation that a rejected answer came from."""

    kind: PairKind
    level: int


@dataclass(frozen=True)
class Example:
    """One video with its answers, before frames are read and text is tokenized.

    For DPO, `answers` holds the chosen answer to `prompt`, then the rejected ones, and `labels` one entry per
    rejected answer. For SFT, `questions` holds (question, answer) pairs about the video. `frames` are indices
    into the stored frames, for a pair that shows the video perturbed; empty means all of them in order.
    """

    id: str
    video_id: str
    prompt: str = ""
    answers: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    frames: tuple[int, ...] = ()

    @property
    def prefix(self) -> tuple[str, str]:
        """A key for the length of the prefix, which depends on the number of frames and on the prompt."""
        shown = f"{self.video_id} ({len(self.frames)} frames)" if self.frames else self.video_id
        return shown, self.prompt

    def load(self, lm: VideoLM, frames: FrameStore) -> Group:
        """The tokens and pixels of this example."""
        stored = frames.read(self.video_id)
        shown = stored.images[list(self.frames)] if self.frames else stored.images
        return self._tokenize(lm, shown, stored.fps)

    def num_answer_tokens(self, lm: VideoLM) -> int:
        """The number of tokens after the prefix, over all continuations. Reads no frames."""
        return sum(self._tokenize(lm, None, 1.0).lengths[1:])

    def _tokenize(self, lm: VideoLM, frames: np.ndarray | None, fps: float) -> Group:
        rows = [Continuation(answer, question) for question, answer in self.questions] or self.answers
        return lm.group(Prefix(frames, self.prompt, fps=fps), rows)


class LoadedExample(NamedTuple):
    """An example with its tokens and pixels."""

    example: Example
    group: Group


def dpo_examples(pairs: Iterable[Pair], phase: DpoPhase) -> list[Example]:
    """The pairs that the phase selects, as examples by `phase.grouping`, in an order of their own.

    Pairs share an example only if they share video, frames, prompt and chosen answer.
    """
    selected = [(_grouping_key(pair, phase), pair) for pair in pairs if selects(phase, pair)]
    selected.sort(key=lambda row: (row[0], row[1].level, row[1].id))
    seen: Counter[str] = Counter()
    return [
        _dpo_example([pair for _, pair in rows], phase, seen)
        for _, rows in groupby(selected, key=lambda row: row[0])
    ]


def selects(phase: DpoPhase, pair: Pair) -> bool:
    """Whether a DPO phase trains on the pair, by its `levels` and `kinds`."""
    return (not phase.levels or pair.level in phase.levels) and (not phase.kinds or pair.kind in phase.kinds)


def _grouping_key(pair: Pair, phase: DpoPhase) -> tuple[str, int, str, str, str, tuple[int, ...]]:
    level = 0 if phase.grouping == "video" else pair.level
    name = pair.id if phase.grouping == "pair" else ""
    return pair.video_id, level, name, pair.prompt, pair.chosen, pair.frames


def _dpo_example(pairs: Sequence[Pair], phase: DpoPhase, seen: Counter[str]) -> Example:
    first = pairs[0]
    names = {"video": first.video_id, "level": f"{first.video_id}/{first.level}", "pair": first.id}
    name = names[phase.grouping]
    seen[name] += 1
    return Example(
        # A video with several chosen answers makes several examples, which need different ids.
        id=name if seen[name] == 1 else f"{name}#{seen[name]}",
        video_id=first.video_id,
        prompt=first.prompt,
        answers=(first.chosen, *(pair.rejected for pair in pairs)),
        labels=tuple(Label(pair.kind, pair.level) for pair in pairs),
        frames=first.frames,
    )


def sft_examples(questions: Iterable[Question], phase: SftPhase) -> list[Example]:
    """One example per video with all its questions, or one per question if `phase.grouping` is "pair".

    Sorted by video; the questions of a video keep their order.
    """
    by_video: dict[str, list[tuple[str, str]]] = {}
    for asked in questions:
        by_video.setdefault(asked.video_id, []).append((asked.question, asked.answer))
    examples = []
    for video_id, rows in sorted(by_video.items()):
        if phase.grouping == "pair":
            examples += [
                Example(f"{video_id}/sft-{number}", video_id, questions=(row,))
                for number, row in enumerate(rows, 1)
            ]
        else:
            examples.append(Example(f"{video_id}/sft", video_id, questions=tuple(rows)))
    return examples


def check_lengths(
    examples: Sequence[Example],
    lm: VideoLM,
    frames: FrameStore,
    *,
    max_tokens: int,
    prefix_lengths: dict[tuple[str, str], int] | None = None,
) -> None:
    """Raises ValueError that names the longest example if it has more than `max_tokens` tokens.

    `prefix_lengths` (`Example.prefix` to number of tokens) is filled on the way. Frames are read only for a
    prefix that it does not hold, so that the phases of a run measure each video once.
    """
    known = {} if prefix_lengths is None else prefix_lengths
    sizes = ((_num_tokens(example, lm, frames, known), example) for example in examples)
    size, longest = max(sizes, key=lambda found: found[0], default=(0, None))
    if longest and size > max_tokens:
        can_be_split = max(len(longest.labels), len(longest.questions)) > 1
        split = ", set grouping = 'pair' in the phase" if can_be_split else ""
        raise ValueError(
            f"{longest.id}: its packed row has {size} tokens, training.max_tokens is {max_tokens}; "
            f"raise it{split}, or lower frames.max_frames, frames.fps or frames.max_pixels"
        )


def _num_tokens(example: Example, lm: VideoLM, frames: FrameStore, known: dict[tuple[str, str], int]) -> int:
    if example.prefix not in known:
        lengths = example.load(lm, frames).lengths
        known[example.prefix] = lengths[0]
        return sum(lengths)
    return known[example.prefix] + example.num_answer_tokens(lm)


def check_longest(context: Context) -> None:
    """Raises ValueError if a video with clips has more than `training.max_tokens` tokens without any answer.

    Needs the processor and the frames of two videos, but no weights, so it can run before captioning. A video
    that passes may still be too long with its answers (`check_lengths`).
    """
    store, limit = RunStore(context.directory), context.config.training.max_tokens
    # The decoded duration: a container may declare a wrong one, or none.
    seconds = {row.id: row.duration_seconds for row in store.read("clips", Clips)}
    frames = FrameStore(context.directory / "frames")
    videos = [
        video.model_copy(update={"duration_seconds": seconds[video.id]})
        for video in store.read("videos", Video)
        if video.id in seconds and frames.has(video.id)
    ]
    if not videos:
        return
    lm = VideoLM(None, load_processor(context.config.model))
    for video in longest_videos(videos, context.config.frames):
        stored = frames.read(video.id)
        size = lm.group(Prefix(stored.images, "", fps=stored.fps), [Continuation("", "")]).lengths[0]
        if size > limit:
            raise ValueError(
                f"{video.path}: the video alone has {size} tokens, training.max_tokens is {limit}; raise "
                "it, or lower frames.fps, frames.max_frames, frames.max_pixels or frames.max_total_pixels"
            )


def longest_videos(videos: Sequence[Video], config: FramesConfig) -> list[Video]:
    """The video with the most frames and the one with the most pixels. Which has more tokens depends on the
    model."""

    def num_frames(video: Video) -> float:
        return min(video.duration_seconds * config.fps, config.max_frames)

    def num_pixels(video: Video) -> float:
        pixels = num_frames(video) * min(video.width * video.height, config.max_pixels)
        return min(pixels, config.max_total_pixels or pixels)

    found = [max(videos, key=lambda video: (size(video), video.id)) for size in (num_frames, num_pixels)]
    return list({video.id: video for video in found}.values())


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
