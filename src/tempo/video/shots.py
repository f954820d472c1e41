"""The second stage: where the camera cuts. The same pass keeps the pictures that later stages look at."""

from __future__ import annotations

import os

import cv2

from tempo.config import Config
from tempo.core.records import Shots, Video
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.detectors import check_detector
from tempo.video.frames import FrameStore
from tempo.video.survey import survey
from tempo.video.videos import check_unchanged, per_record

#: How a file ends that no longer has the content it had; a copy of it may still have.
LOST = ("no such file", "file changed")


def make_worker(context: Context) -> Worker:
    """A worker that maps Video to Shots, writes the video's frames to the frame store, or gives a Skipped.

    Raises ValueError where the configured detector is not installed.
    """
    check_detector(context.config.shots)
    store = FrameStore(context.directory / "frames")

    def find(video: Video) -> Shots:
        try:
            return look_through(video.path, video.id, store, context.config)
        except SkipRecord as dropped:
            if not video.copies or dropped.reason not in LOST:
                raise
            first, *others = video.copies
            return find(video.model_copy(update={"path": first, "copies": tuple(others)}))

    return per_record("shots", find)


def look_through(path: str, video_id: str, store: FrameStore, config: Config) -> Shots:
    """The shots of a video, whose frames and looks are then in the store; raises SkipRecord."""
    # The cores are for videos side by side: waking another thread takes longer than a small picture.
    cv2.setNumThreads(1)
    check_unchanged(path, video_id, config.videos.paths)
    before = _state(path)
    found = survey(path, config)
    if _state(path) != before:
        check_unchanged(path, video_id, config.videos.paths)
        raise SkipRecord("file changed", f"{path} was written to while it was read")
    store.write(video_id, found.sampled.frames, seconds=found.sampled.seconds, fps=found.sampled.fps)
    if found.looks is not None:
        store.write_looks(video_id, found.looks)
    return Shots(
        id=video_id,
        path=path,
        num_frames=found.num_frames,
        duration_seconds=found.duration_seconds,
        shots=found.shots,
        rejected=found.rejected,
    )


def _state(path: str) -> tuple[int, int, int] | None:
    """What changes with the content of a file; None for a file that is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
