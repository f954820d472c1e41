"""Whether the longest video fits a packed row, asked before the model has said a word about any."""

from __future__ import annotations

from collections.abc import Sequence

from tempo.config import FramesConfig
from tempo.core.records import Clips, Video
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.loading import load_processor
from tempo.video.frames import FrameStore


def check_longest(context: Context) -> None:
    """Raises ValueError if a video that has clips is over `training.max_tokens` without any answer.

    Takes the processor and the frames of two videos at most, no weights. What fits without its answers may
    still not fit with them: that is known when they are there.
    """
    store, limit = RunStore(context.directory), context.config.training.max_tokens
    # What was decoded: a container may claim any duration, or none.
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
    for video in longest(videos, context.config.frames):
        stored = frames.read(video.id)
        size = lm.group(Prefix(stored.frames, "", fps=stored.fps), [Continuation("", "")]).lengths[0]
        if size > limit:
            raise ValueError(
                f"{video.path}: the video alone takes {size} tokens, training.max_tokens is {limit}; raise "
                "it, or lower frames.fps, frames.max_frames, frames.max_pixels or frames.max_total_pixels"
            )


def longest(videos: Sequence[Video], config: FramesConfig) -> list[Video]:
    """The video with the most frames and the one with the most pixels: which counts depends on the model."""

    def num_frames(video: Video) -> float:
        return min(video.duration_seconds * config.fps, config.max_frames)

    def num_pixels(video: Video) -> float:
        pixels = num_frames(video) * min(video.width * video.height, config.max_pixels)
        return min(pixels, config.max_total_pixels or pixels)

    found = [max(videos, key=lambda video: (size(video), video.id)) for size in (num_frames, num_pixels)]
    return list({video.id: video for video in found}.values())
