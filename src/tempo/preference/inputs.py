"""What the model is told or shown of a video whose clips stand in some order (`responses.input_form`).

T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.core.records import Captions, Clips
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.answers import Request
from tempo.preference.prompts import describe_prompt, fusion
from tempo.video.frames import FrameStore

#: From clip indices and a seed to a request; None where they show nothing, or nothing new.
Ask: TypeAlias = Callable[[Sequence[int], int], Request | None]


@dataclass(frozen=True)
class Footage:
    """Frames uint8 [T, H, W, 3] taken at `fps`, in time order, and which clip each of them belongs to."""

    frames: NDArray[np.uint8]
    clip_T: NDArray[np.int64]
    num_clips: int
    fps: float


def input_reader(context: Context) -> Callable[[str], Ask]:
    """How the configured input form asks about a video, by video id."""
    rows, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    form, seed = context.config.responses.input_form, context.config.run.seed
    if form == "captions":
        captions = {row.id: row.captions for row in rows.read("captions", Captions)}
        return lambda video_id: ask_captions(captions[video_id])
    clips = {row.id: row for row in rows.read("clips", Clips)}
    read = key_frames_by_clip if form == "clips" else frames_by_clip
    return lambda video_id: ask_footage(
        read(clips[video_id], frames), prompt=describe_prompt(video_id, seed=seed)
    )


def ask_captions(captions: Sequence[str]) -> Ask:
    """Asks for the fusion of the captions of the clips, in their order."""
    return lambda order, seed: Request(fusion([captions[clip] for clip in order]), seed)


def ask_footage(footage: Footage, *, prompt: str) -> Ask:
    """Shows the clips in their order, as if they were a video of their own at the rate of the clean one.

    None for an order that looks like the clean video or like nothing: clips shorter than 1 / fps seconds may
    have no frame.
    """

    def ask(order: Sequence[int], seed: int) -> Request | None:
        shown_T = arrange(footage.clip_T, order)
        looks_clean = np.array_equal(shown_T, np.arange(len(footage.clip_T)))
        is_clean = list(order) == list(range(footage.num_clips))
        if not len(shown_T) or looks_clean != is_clean:
            return None
        return Request(prompt, seed, footage.frames[shown_T], footage.fps)

    return ask


def arrange(clip_T: NDArray[np.int64], order: Sequence[int]) -> NDArray[np.int64]:
    """Frame numbers of the clips in this order; within a clip in time order."""
    return np.concatenate([np.flatnonzero(clip_T == clip) for clip in order])


def key_frames_by_clip(video: Clips, store: FrameStore) -> Footage:
    """The key frames of a video, at the rate that spreads them over its clips."""
    counts = [len(clip.key_frames) for clip in video.clips]
    seconds = sum(clip.end_seconds - clip.start_seconds for clip in video.clips)
    clip_T = np.repeat(np.arange(len(counts)), counts)
    return Footage(store.read_key_frames(video.id), clip_T, len(counts), round(sum(counts) / seconds, 3))


def frames_by_clip(video: Clips, store: FrameStore) -> Footage:
    """The stored frames of a video, each with its clip."""
    stored = store.read(video.id)
    return Footage(stored.images, clip_of_frames(video, stored.seconds), len(video.clips), stored.fps)


def clip_of_frames(video: Clips, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """For frames at these times [T], the last clip that has begun by then.

    So what lies between two clips goes with the earlier one, and what comes before all with the first: each
    frame belongs to exactly one clip.
    """
    starts_seconds = [clip.start_seconds for clip in video.clips]
    return np.maximum(np.searchsorted(starts_seconds, seconds, side="right") - 1, 0)
