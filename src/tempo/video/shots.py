"""The stage `shots`: one pass over a video finds its shots, measures them and samples training frames.

Four numbers are kept for each frame of the open shot, whose end is not known yet. Apart from these, memory
does not grow with the length of a video. H: height, W: width, D: size of a descriptor (128).
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.config import FramesConfig, ShotsConfig
from tempo.core.records import Moment, Shot, Shots, Video
from tempo.engine.types import Context, Worker
from tempo.video.decode import Frame, Image, Scaler, decode
from tempo.video.detectors import Detector, check_detector, make_detector
from tempo.video.faults import per_record, watched
from tempo.video.find import check_unchanged
from tempo.video.frames import Frames, FrameStore, Sampler
from tempo.video.selection import MIN_SECONDS, choose_key_frames

#: Longer side, in pixels, of the image on which cuts and sharpness are measured. 160 pixels gave the same
#: cuts on all real videos; with 256, one of the 132 cuts of `content` in bbb_full_596s.mp4 differed.
ANALYSIS_PIXELS = 128

#: Maximum number of thumbnails of the open shot. Beyond it, every second one is dropped, except for the most
#: recent ones, because a cut becomes known late, by up to 475 frames with TransNetV2.
MAX_THUMBNAILS, NUM_RECENT = 2048, 512

#: A shot has one candidate in each eighth, or in every 12 frames if it is short, and in each of its moments.
NUM_BUCKETS, BUCKET_FRAMES = 8, 12

#: How many small frames are decoded before they are measured. Decoding and measuring by turns displace each
#: other's code and data from the processor's caches (docs/log.md, "Where the first pass lost time").
NUM_SMALL_AHEAD = 64

#: Moments are this far apart. Their brightness is compared in 32 x 18 cells: large enough to average noise
#: away, small enough to see one person.
MOMENT_SECONDS, CELLS = 0.5, (32, 18)


def find_shots(
    path: str | Path, config: ShotsConfig | None = None, *, timeout_seconds: float = 120.0
) -> tuple[Shot, ...]:
    """The usable shots of a video in time order; `config` is the section `[shots]`.

    Raises SkipRecord, a ValueError, if the file cannot be decoded, or if no frame arrives for
    `timeout_seconds`.
    """
    return _analyse(path, config or ShotsConfig(), FramesConfig(), timeout_seconds)[0].finish()


def make_worker(context: Context) -> Worker:
    """A worker that maps Video to Shots or Skipped, and writes the video's frames to the frame store.

    Raises ValueError if the configured detector is not installed.
    """
    config = context.config
    check_detector(config.shots)
    store = FrameStore(context.directory / "frames")

    def find(video: Video) -> Shots:
        # Other cores work on other videos, and waking a thread takes longer than processing a small image.
        cv2.setNumThreads(1)
        check_unchanged(video.path, video.id)
        timeout_seconds = config.videos.timeout_seconds
        cutter, sampled = _analyse(video.path, config.shots, config.frames, timeout_seconds)
        found = Shots(
            id=video.id,
            path=video.path,
            shots=cutter.finish(),
            num_frames=cutter.num_frames,
            duration_seconds=cutter.end_seconds,
        )
        store.write(video.id, sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)
        return found

    return per_record("shots", find)


def _analyse(
    path: str | Path, shots: ShotsConfig, frames: FramesConfig, timeout_seconds: float
) -> tuple[ShotCutter, Frames]:
    cutter, sampler = ShotCutter(make_detector(shots), shots), Sampler(frames)

    def small_frames() -> Iterator[SmallFrame]:
        # In the thread of the decoder, so that no frames at full size wait to be handed over.
        for frame in decode(path):
            sampler.add(frame)
            yield cutter.shrink(frame)

    for small in watched(small_frames(), timeout_seconds, num_ahead=NUM_SMALL_AHEAD):
        cutter.add(small)
    return cutter, sampler.finish()


@dataclass(frozen=True)
class SmallFrame:
    """A frame scaled down to `image`; `pts` is its timestamp in the file, if it has one."""

    index: int
    start_seconds: float
    end_seconds: float
    pts: int | None
    is_key: bool
    image: Image


class ShotCutter:
    """Cuts a stream of frames into shots and measures them."""

    def __init__(self, detector: Detector, config: ShotsConfig) -> None:
        self._detector, self._config, self._scaler = detector, config, Scaler()
        self._size: tuple[int, int] | None = None
        # For each frame of the open shot: start, sharpness, timestamp and that of the last key frame, or NaN.
        self._facts = array("d")
        self._last_pts, self._key_pts = -math.inf, math.nan
        self._thumbnails: list[tuple[int, Image]] = []
        # The moments of the open shot, and the cells of the last three.
        self._moments: list[Moment] = []
        self._cells: list[NDArray[np.float32]] = []
        self._next_seconds = 0.0
        self._start_frame = 0
        self._shots: list[Shot] = []
        self.num_frames = 0
        self.end_seconds = 0.0

    def shrink(self, frame: Frame) -> SmallFrame:
        """The next frame as `add` takes it; may run ahead of `add` in another thread."""
        if self._size is None:
            scale = min(1.0, ANALYSIS_PIXELS / max(frame.size))
            self._size = max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale))
        image, decoded = self._scaler.scale(frame.decoded, self._size), frame.decoded
        times = frame.start_seconds, frame.end_seconds
        return SmallFrame(frame.index, *times, decoded.pts, decoded.key_frame, image)

    def add(self, frame: SmallFrame) -> None:
        """Adds the next frame."""
        pts = math.nan if frame.pts is None else float(frame.pts)
        # A timestamp that repeats cannot identify a frame.
        pts = pts if pts > self._last_pts else math.nan
        self._last_pts = max(self._last_pts, pts)
        self._key_pts = pts if frame.is_key else self._key_pts
        # Rounded as in the record, so that the choice of frames can be reproduced from it.
        sharpness = round(measure_sharpness(frame.image), 4)
        self._facts.extend((frame.start_seconds, sharpness, pts, self._key_pts))
        # At half the size, because noise would widen the grey range of a larger image.
        height, width = frame.image.shape[:2]
        thumbnail = _shrink(frame.image, (max(1, width // 2), max(1, height // 2)))
        self._thumbnails.append((frame.index, thumbnail))
        if len(self._thumbnails) > MAX_THUMBNAILS:
            del self._thumbnails[:-NUM_RECENT:2]
        if frame.start_seconds >= self._next_seconds:
            self._add_moment(frame)
        self.num_frames, self.end_seconds = frame.index + 1, frame.end_seconds
        for cut in self._detector.add(frame.image, frame.start_seconds):
            self._close(cut)

    def _add_moment(self, frame: SmallFrame) -> None:
        # A fixed grid, because cuts become known late.
        self._next_seconds = (frame.start_seconds // MOMENT_SECONDS + 1) * MOMENT_SECONDS
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        self._cells = [*self._cells[-2:], _shrink(grey, CELLS)]
        if self._moments:
            # After a jump, both differences are large; the second one also finds slow changes.
            before, *later = self._cells
            change = fmean(cv2.norm(before, cells, cv2.NORM_L2) / before.size**0.5 for cells in later)
            self._moments[-1] = self._moments[-1].model_copy(update={"change": round(change, 2)})
        self._moments.append(Moment(start_frame=frame.index, start_seconds=frame.start_seconds, change=0.0))

    def finish(self) -> tuple[Shot, ...]:
        """The usable shots in time order."""
        for cut in (*self._detector.add(None, self.end_seconds), self.num_frames):
            self._close(cut)
        return tuple(self._shots)

    def _close(self, end_frame: int) -> None:
        """Ends the open shot at `end_frame` (exclusive), and keeps it if it passes the shot filter."""
        first, self._start_frame = self._start_frame, end_frame
        if end_frame <= first:
            return
        facts = np.reshape(self._facts[: 4 * (end_frame - first)], (-1, 4))
        del self._facts[: facts.size]
        start_seconds, end_seconds = facts[0, 0], self._facts[0] if self._facts else self.end_seconds
        moments = [moment for moment in self._moments if moment.start_frame < end_frame]
        self._moments = self._moments[len(moments) :]
        # The change of the first and of the last moment may be that of a cut.
        moments = moments[1:-1] if end_seconds - start_seconds >= 2 * MIN_SECONDS else []
        middle = (first + end_frame) // 2
        _, thumbnail = min(self._thumbnails, key=lambda one: abs(one[0] - middle))
        self._thumbnails = [one for one in self._thumbnails if one[0] >= end_frame]
        grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
        sharpness, stamps = facts[:, 1].tolist(), facts[:, 2:]
        candidates = choose_candidates(sharpness, [moment.start_frame - first for moment in moments])
        shot = Shot(
            start_frame=first,
            end_frame=end_frame,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            grey_range=int(grey.max()) - int(grey.min()),
            descriptor=tuple(np.round(describe(thumbnail), 4).tolist()),
            candidates=tuple(first + i for i in candidates),
            sharpness=tuple(sharpness[i] for i in candidates),
            time_stamps={
                first + i: (int(stamps[i, 0]), int(stamps[i, 1]))
                for i in sorted({*candidates, middle - first})
                if not np.isnan(stamps[i]).any()
            },
            moments=tuple(moments),
        )
        is_long = shot.num_frames >= self._config.min_frames and shot.seconds >= self._config.min_seconds
        if is_long and shot.grey_range >= self._config.min_grey_range:
            self._shots.append(shot)


def choose_candidates(sharpness: Sequence[float], bounds: Sequence[int] = ()) -> list[int]:
    """The frames of a shot that may become key frames, given the sharpness of each frame.

    These are the two key frames that the shot would have as a clip, so that a clip of one shot follows the
    rule exactly, and, for clips of several shots or of parts between `bounds`, the
    sharpest frame of each bucket.
    """
    num_buckets = max(1, min(NUM_BUCKETS, len(sharpness) // BUCKET_FRAMES))
    edges = np.linspace(0, len(sharpness), num_buckets + 1).round().astype(int).tolist()
    buckets = (range(first, end) for first, end in itertools.pairwise(sorted({*edges, *bounds})))
    sharpest = {max(bucket, key=sharpness.__getitem__) for bucket in buckets}
    return sorted(sharpest.union(choose_key_frames(len(sharpness), dict(enumerate(sharpness)))))


def measure_sharpness(image: Image) -> float:
    """Mean absolute Laplacian (3x3) after a 3x3 Gaussian blur, on the grey levels of RGB uint8 [H, W, 3]."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    laplacian: NDArray[np.int16] = cv2.Laplacian(grey, cv2.CV_16S, ksize=3)
    # Five times as fast as numpy's mean.
    return float(cv2.norm(laplacian, cv2.NORM_L1)) / laplacian.size


def describe(image: Image) -> NDArray[np.float64]:
    """A descriptor [D] of the place that an image shows: a unit vector, half colour, half layout.

    Colour: square root of a joint 4x4x4 RGB histogram, whose dot product is the Bhattacharyya coefficient.
    Layout: 8x8 brightness minus its mean; zero for an image of uniform brightness.
    """
    levels = (image >> 6).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    colour = np.sqrt(np.bincount(levels, minlength=64) / len(levels))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    layout = _shrink(grey, (8, 8)).astype(np.float64).ravel()
    layout -= layout.mean()
    length = np.linalg.norm(layout)
    # A contrast of less than one grey level is codec noise.
    layout = layout / length if length / 8 >= 1 else np.zeros_like(layout)
    both = np.concatenate([colour, layout])
    return np.asarray(both / np.linalg.norm(both), np.float64)


def _shrink(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The image averaged to this width and height."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
