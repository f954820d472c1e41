"""The second stage: where the camera cuts. The same pass measures sharpness and samples frames to keep."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from tempo.config import Config
from tempo.records import Shot, Shots, Video
from tempo.sections import ShotsConfig
from tempo.stage import Context, Dropped, Worker
from tempo.video.decoding import Image, Picture, decode
from tempo.video.frames import FrameStore
from tempo.video.pictures import describe, measure_grey_range, measure_sharpness
from tempo.video.sampling import Sampler
from tempo.video.videos import check_unchanged, per_record

#: Longer side in pixels of the picture that cuts and sharpness are measured on. PySceneDetect's thresholds
#: are made for this size, and the model sees about as many pixels, so finer blur would not matter to it.
ANALYSIS_PIXELS = 256

#: Cuts closer than this are one, as in PySceneDetect (15 frames there, at 25 a second). With 8 frames the
#: four further cuts on real videos were all flashes or fast motion; a length in frames would in turn merge
#: true shots of a slow video.
MIN_SHOT_MICROSECONDS = 600_000

#: Width and height of the thumbnail that a shot's descriptor and grey range are taken from.
THUMBNAIL_SIZE = (64, 36)


class Detector(Protocol):
    """Finds cuts in a stream of pictures; may tell them late, but in order."""

    def add(self, image: Image, start_seconds: float) -> list[int]:
        """Cuts that the next RGB picture makes known, as the frame numbers at which new shots begin."""
        ...


@dataclass(frozen=True)
class Scan:
    """What one pass over a video finds: its usable shots, and the sharpness of each decoded frame."""

    shots: tuple[Shot, ...]
    sharpness: tuple[float, ...]
    duration_seconds: float


def make_worker(context: Context) -> Worker:
    """A worker that maps Video to Shots, writes the video's frames to the frame store, or gives a Drop."""
    store = FrameStore(context.directory / "frames")

    def find(video: Video) -> Shots:
        check_unchanged(video.path, video.id)
        sampler = Sampler(context.config.frames)
        scan = _scan(video.path, sampler, context.config)
        frames, seconds, fps = sampler.finish()
        store.write(video.id, frames, seconds=seconds, fps=fps)
        return Shots(
            id=video.id,
            path=video.path,
            num_frames=len(scan.sharpness),
            duration_seconds=scan.duration_seconds,
            shots=scan.shots,
            sharpness=scan.sharpness,
        )

    return per_record("shots", find)


def make_detector(config: ShotsConfig) -> Detector:
    """The configured detector, for one video."""
    return SceneDetectDetector(config)


class SceneDetectDetector:
    """PySceneDetect's ContentDetector or AdaptiveDetector; its own threshold unless one is configured."""

    def __init__(self, config: ShotsConfig) -> None:
        options: dict[str, Any] = {"min_scene_len": MIN_SHOT_MICROSECONDS}
        if config.detector == "content":
            options |= {"threshold": config.threshold} if config.threshold else {}
            self._detector = ContentDetector(**options)
        else:
            options |= {"adaptive_threshold": config.threshold} if config.threshold else {}
            self._detector = AdaptiveDetector(**options)
        self._starts_microseconds: list[int] = []

    def add(self, image: Image, start_seconds: float) -> list[int]:
        """Cuts that the next RGB picture makes known, as the frame numbers at which new shots begin."""
        # The library counts frames; counting microseconds instead, uneven rates do no harm.
        now = FrameTimecode(round(start_seconds * 1e6), fps=1e6)
        self._starts_microseconds.append(now.frame_num)
        cuts = self._detector.process_frame(now, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]


class ShotCutter:
    """Cuts a stream of pictures into shots, each with the thumbnail of its middle frame.

    Keeps the thumbnails of the open shot only, since its middle is known when it ends: 7 kB a frame, 12 MB
    for a shot of a minute.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._thumbnails: list[Image] = []
        self._start_frame = 0
        self._shots: list[tuple[int, int, Image]] = []

    def add(self, image: Image, start_seconds: float) -> None:
        """Takes the next RGB picture."""
        self._thumbnails.append(cv2.resize(image, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA))
        for cut in self._detector.add(image, start_seconds):
            self._close(cut)

    def finish(self) -> list[tuple[int, int, Image]]:
        """First frame, frame after the last, middle thumbnail of each shot; no gaps, in time order."""
        self._close(self._start_frame + len(self._thumbnails))
        return self._shots

    def _close(self, end_frame: int) -> None:
        num_frames = end_frame - self._start_frame
        if num_frames > 0:
            self._shots.append((self._start_frame, end_frame, self._thumbnails[num_frames // 2]))
            self._thumbnails = self._thumbnails[num_frames:]
            self._start_frame = end_frame


def _scan(path: str, sampler: Sampler, config: Config) -> Scan:
    """One pass over the video; raises Dropped("cannot be decoded")."""
    cutter = ShotCutter(make_detector(config.shots))
    starts_seconds: list[float] = []
    sharpness: list[float] = []
    picture: Picture | None = None
    size = (0, 0)
    try:
        for picture in decode(path):
            size = size if picture.index else _analysis_size(picture)
            image = picture.scaled(*size)
            cutter.add(image, picture.start_seconds)
            sampler.add(picture)
            starts_seconds.append(picture.start_seconds)
            # Four decimals: there is one number a frame in the row.
            sharpness.append(round(measure_sharpness(image), 4))
    except Dropped as dropped:
        raise Dropped("cannot be decoded", f"{dropped.reason}: {dropped.detail}") from None
    assert picture is not None, "decode() yields a picture or raises"
    bounds_seconds = [*starts_seconds, picture.end_seconds]
    shots = (_shot(*shot, bounds_seconds) for shot in cutter.finish())
    usable = tuple(shot for shot in shots if _is_usable(shot, config.shots))
    return Scan(usable, tuple(sharpness), picture.end_seconds)


def _analysis_size(picture: Picture) -> tuple[int, int]:
    width, height = picture.size
    scale = min(1.0, ANALYSIS_PIXELS / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shot(start_frame: int, end_frame: int, thumbnail: Image, bounds_seconds: list[float]) -> Shot:
    """The record of a shot; the grey range is that of the thumbnail, so that noise does not widen it."""
    return Shot(
        start_frame=start_frame,
        end_frame=end_frame,
        start_seconds=bounds_seconds[start_frame],
        end_seconds=bounds_seconds[end_frame],
        grey_range=measure_grey_range(thumbnail),
        descriptor=tuple(np.round(describe(thumbnail), 4).tolist()),
    )


def _is_usable(shot: Shot, config: ShotsConfig) -> bool:
    return (
        shot.num_frames >= config.min_frames
        and shot.seconds >= config.min_seconds
        and shot.grey_range >= config.min_grey_range
    )
