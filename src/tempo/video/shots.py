"""The stage `shots`: one pass over a video finds its shots, measures them and samples training frames.

Memory does not grow with the length of a video, except for four numbers per frame of the open shot. H height,
W width, D size of a descriptor (128).
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.config import Config, FramesConfig, ShotsConfig
from tempo.core.records import RejectedShot, Shot, Shots, Video
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.clips import choose_key_frames
from tempo.video.decode import Frame, Image, Scaler, decode
from tempo.video.detectors import Detector, check_detector, make_detector
from tempo.video.faults import Watchdog, per_record, watched
from tempo.video.find import check_unchanged
from tempo.video.frames import FrameStore, SampledFrames, Sampler

#: Longer side in pixels, at most, of the image on which cuts and sharpness are measured. Twice as much gives
#: the same cuts on real videos (docs/log.md).
ANALYSIS_PIXELS = 128

#: Thumbnails of the open shot, half as wide and high, at most. Of more, every second is dropped, but none of
#: the latest: detectors find cuts late, TransNetV2 by up to 475 frames.
MAX_THUMBNAILS, NUM_RECENT = 2048, 512

#: Candidates of a shot for clips of several shots: one for each eighth, in a short shot for each 12 frames.
NUM_BUCKETS, BUCKET_FRAMES = 8, 12

#: FFmpeg's value for a missing time stamp.
NO_PTS = -(2**63)


def find_shots(
    path: str | Path,
    *,
    detector: Literal["content", "adaptive", "transnet"] = "content",
    threshold: float | None = None,
    min_frames: int = 8,
    min_seconds: float = 0.2,
    min_grey_range: int = 10,
    timeout_seconds: float = 120.0,
) -> tuple[Shot, ...]:
    """The usable shots of a video in time order; the options are those of the section `[shots]`.

    `detector` is PySceneDetect's ContentDetector or AdaptiveDetector, or TransNetV2 (arXiv 2008.04838), each
    with its own threshold unless one is given. Raises SkipRecord, a ValueError, where the file cannot be
    decoded or no frame comes for `timeout_seconds`.
    """
    config = ShotsConfig(
        detector=detector,
        threshold=threshold,
        min_frames=min_frames,
        min_seconds=min_seconds,
        min_grey_range=min_grey_range,
    )
    found, _ = _analyse(str(path), "", config, FramesConfig(), timeout_seconds)
    return found.shots


def make_worker(context: Context) -> Worker:
    """A worker that maps Video to Shots and writes the video's frames to the frame store, or gives a Skipped.

    Raises ValueError where the configured detector is not installed.
    """
    check_detector(context.config.shots)
    store = FrameStore(context.directory / "frames")

    def find(video: Video) -> Shots:
        try:
            return _find_and_store(video, store, context.config)
        except SkipRecord as skip:
            if not video.copies or skip.reason not in ("no such file", "file changed"):
                raise
            first, *others = video.copies
            return find(video.model_copy(update={"path": first, "copies": tuple(others)}))

    return per_record("shots", find)


def _find_and_store(video: Video, store: FrameStore, config: Config) -> Shots:
    # Cores are used by videos side by side; waking another thread takes longer than a small image.
    cv2.setNumThreads(1)
    check_unchanged(video.path, video.id, config.videos.paths)
    found, sampled = _analyse(
        video.path, video.id, config.shots, config.frames, config.videos.timeout_seconds
    )
    # Again, because a file that is still being copied changes while it is read.
    check_unchanged(video.path, video.id, config.videos.paths)
    store.write(video.id, sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)
    return found


def _analyse(
    path: str, video_id: str, shots: ShotsConfig, frames: FramesConfig, timeout_seconds: float
) -> tuple[Shots, SampledFrames]:
    """The pass over the video; raises SkipRecord ("cannot be decoded", "frame too thin", "decoder hangs")."""

    def work(watchdog: Watchdog) -> tuple[Shots, SampledFrames]:
        # Loading and running a learned detector may take longer than a frame ever does.
        watchdog.pause()
        cutter, sampler = ShotCutter(make_detector(shots), shots), Sampler(frames)
        for frame in decode(path, watchdog):
            sampler.add(frame)
            cutter.add(frame)
        found, rejected = cutter.finish()
        row = Shots(
            id=video_id,
            path=path,
            num_frames=cutter.num_frames,
            duration_seconds=cutter.end_seconds,
            shots=found,
            rejected=rejected,
        )
        return row, sampler.finish()

    try:
        return watched(work, timeout_seconds)
    except SkipRecord as skip:
        if skip.reason in ("decoder hangs", "frame too thin"):
            raise
        raise SkipRecord("cannot be decoded", f"{skip.reason}: {skip.detail}") from None


class ShotCutter:
    """Cuts a stream of frames into shots and measures them."""

    def __init__(self, detector: Detector, config: ShotsConfig) -> None:
        self._detector = detector
        self._config = config
        self._scaler = Scaler()
        self._size: tuple[int, int] | None = None
        # Of each frame of the open shot: start, sharpness, time stamp, time stamp of the key frame before it.
        self._starts, self._sharpness = array("d"), array("d")
        self._pts, self._key_pts = array("q"), array("q")
        self._last_pts = self._last_key_pts = NO_PTS
        self._thumbnails: list[tuple[int, Image]] = []
        self._start_frame = 0
        self._shots: list[Shot] = []
        self._rejected: list[RejectedShot] = []
        self.num_frames = 0
        self.end_seconds = 0.0

    def add(self, frame: Frame) -> None:
        """Takes the next frame."""
        self._size = self._size or _analysis_size(*frame.size)
        image = self._scaler.scale(frame.decoded, self._size)
        self._starts.append(frame.start_seconds)
        # Four decimals, because some of these numbers are written into the record.
        self._sharpness.append(round(measure_sharpness(image), 4))
        self._add_pts(frame)
        self._thumbnails.append((frame.index, _halve(image)))
        if len(self._thumbnails) > MAX_THUMBNAILS:
            del self._thumbnails[:-NUM_RECENT:2]
        self.num_frames, self.end_seconds = frame.index + 1, frame.end_seconds
        self._close_at(self._detector.add(image, frame.start_seconds))

    def finish(self) -> tuple[tuple[Shot, ...], tuple[RejectedShot, ...]]:
        """The usable shots, and those that the shot filter takes out, in time order."""
        self._close_at(self._detector.add(None, self.end_seconds))
        if self.num_frames > self._start_frame:
            self._close(self.num_frames, self.end_seconds)
        return tuple(self._shots), tuple(self._rejected)

    def _add_pts(self, frame: Frame) -> None:
        pts = frame.decoded.pts
        # A frame cannot be found by a time stamp that another one has.
        pts = NO_PTS if pts is None or pts <= self._last_pts else pts
        if frame.decoded.key_frame:
            self._last_key_pts = pts
        self._last_pts = max(self._last_pts, pts)
        self._pts.append(pts)
        self._key_pts.append(self._last_key_pts)

    def _close_at(self, cuts: Sequence[int]) -> None:
        for cut in cuts:
            if cut > self._start_frame:
                self._close(cut, self._starts[cut - self._start_frame])

    def _close(self, end_frame: int, end_seconds: float) -> None:
        """Ends the open shot before `end_frame`."""
        shot = self._make_shot(end_frame, end_seconds)
        if fault := _find_fault(shot, self._config):
            rejected = RejectedShot(start_frame=shot.start_frame, end_frame=end_frame, reason=fault)
            self._rejected.append(rejected)
        else:
            self._shots.append(shot)
        for numbers in (self._starts, self._sharpness, self._pts, self._key_pts):
            del numbers[: shot.num_frames]
        self._thumbnails = [one for one in self._thumbnails if one[0] >= end_frame]
        self._start_frame = end_frame

    def _make_shot(self, end_frame: int, end_seconds: float) -> Shot:
        start_frame = self._start_frame
        num_frames = end_frame - start_frame
        middle = (start_frame + end_frame) // 2
        _, thumbnail = min(self._thumbnails, key=lambda one: abs(one[0] - middle))
        candidates = choose_candidates(self._sharpness[:num_frames])
        stamps = {
            start_frame + i: (self._pts[i], self._key_pts[i])
            for i in sorted({*candidates, middle - start_frame})
            if NO_PTS not in (self._pts[i], self._key_pts[i])
        }
        return Shot(
            start_frame=start_frame,
            end_frame=end_frame,
            start_seconds=self._starts[0],
            end_seconds=end_seconds,
            grey_range=measure_grey_range(thumbnail),
            descriptor=tuple(np.round(describe(thumbnail), 4).tolist()),
            candidates=tuple(start_frame + i for i in candidates),
            sharpness=tuple(self._sharpness[i] for i in candidates),
            time_stamps=stamps,
        )


def choose_candidates(sharpness: Sequence[float]) -> list[int]:
    """The frames of a shot that may become key frames, given the sharpness of all.

    They are the shot's own two key frames, and the sharpest of each eighth (of each 12 frames in a short
    shot). So a clip of one shot gets exactly the frames of the rule (method.md, section 2). In a clip of
    several shots, the rule's frame has a candidate at least as sharp in the same eighth.
    """
    by_number: Mapping[int, float] = dict(enumerate(sharpness))
    chosen = set(choose_key_frames(len(sharpness), by_number))
    num_buckets = max(1, min(NUM_BUCKETS, len(sharpness) // BUCKET_FRAMES))
    edges = np.linspace(0, len(sharpness), num_buckets + 1).round().astype(int).tolist()
    chosen.update(
        max(range(first, end), key=by_number.__getitem__) for first, end in itertools.pairwise(edges)
    )
    return sorted(chosen)


def _analysis_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, ANALYSIS_PIXELS / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _halve(image: Image) -> Image:
    """Descriptor and grey range are measured on half the size, so that noise does not widen the range."""
    height, width = (max(1, side // 2) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _find_fault(shot: Shot, config: ShotsConfig) -> str:
    """Why the shot filter takes a shot out; empty for a usable shot."""
    if shot.num_frames < config.min_frames:
        return f"{shot.num_frames} frames, min_frames is {config.min_frames}"
    if shot.seconds < config.min_seconds:
        return f"{shot.seconds:.3f} seconds, min_seconds is {config.min_seconds:g}"
    if shot.grey_range < config.min_grey_range:
        return f"grey range {shot.grey_range}, min_grey_range is {config.min_grey_range}"
    return ""


def measure_sharpness(image: Image) -> float:
    """Mean absolute Laplacian (3x3) of the grey image after a 3x3 Gaussian blur; RGB uint8 [H, W, 3] in."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    laplacian: NDArray[np.int16] = cv2.Laplacian(grey, cv2.CV_16S, ksize=3)
    # The same mean as numpy's, in a fifth of the time.
    return float(cv2.norm(laplacian, cv2.NORM_L1)) / laplacian.size


def describe(image: Image) -> NDArray[np.float64]:
    """A descriptor of the place that an image shows, [D], of length 1: half colour, half layout.

    Colour: square root of a joint 4x4x4 RGB histogram, whose dot product is the Bhattacharyya coefficient.
    Layout: 8x8 brightness less its mean. An image of one brightness has no layout and is all colour.
    """
    levels = (image >> 6).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    colour = np.sqrt(np.bincount(levels, minlength=64) / len(levels))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    layout = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    layout -= layout.mean()
    length = np.linalg.norm(layout)
    # Less than one grey level is noise of the codec.
    layout = layout / length if length / 8 >= 1 else np.zeros_like(layout)
    both = np.concatenate([colour, layout])
    return np.asarray(both / np.linalg.norm(both), np.float64)


def measure_grey_range(image: Image) -> int:
    """Brightest less darkest grey level, 0 to 255."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return int(grey.max()) - int(grey.min())
