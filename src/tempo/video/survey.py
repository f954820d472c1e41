"""One pass over a video gives all that selection needs: shots, sharpness, pictures to keep.

Its memory does not grow with the video, but for some numbers and, while the video may still be kept, ten
small JPEGs for each shot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tempo.config import Config
from tempo.records import Shot
from tempo.sections import ShotsConfig
from tempo.stage import Dropped
from tempo.video.decoding import Picture, decode
from tempo.video.detectors import Detector, make_detector
from tempo.video.frames import Looks, Sampled, encode_jpeg
from tempo.video.patience import Beat, with_patience
from tempo.video.pictures import describe, measure_grey_range, measure_sharpness
from tempo.video.sampling import Sampler
from tempo.video.shrinking import Shrinker
from tempo.video.waiting import Held, Waiting, choose_candidates

#: Longer side in pixels, at most, of the picture that cuts and sharpness are measured on. PySceneDetect's
#: thresholds are made for about this; half of it gives the same cuts on real videos. The model sees about as
#: many pixels by default, so finer blur would not matter to it.
ANALYSIS_PIXELS = 256

#: Width and height of the thumbnail that a shot's descriptor and grey range are taken from: noise must not
#: widen the range.
THUMBNAIL_SIZE = (64, 36)


@dataclass(frozen=True)
class Survey:
    """What one pass over a video finds; `looks` is None for a video with too many shots to be kept."""

    shots: tuple[Shot, ...]
    sharpness: tuple[float, ...]
    duration_seconds: float
    sampled: Sampled
    looks: Looks | None


def survey(path: str, config: Config) -> Survey:
    """One pass over the video; raises Dropped ("cannot be decoded", "decoder hangs")."""
    return with_patience(lambda beat: _pass(path, config, beat), config.videos.timeout_seconds)


def _pass(path: str, config: Config, beat: Beat) -> Survey:
    sampler = Sampler(config.frames)
    cutter = ShotCutter(make_detector(config.shots), config)
    end_seconds = 0.0
    for picture in _pictures(path):
        beat()
        sampler.add(picture)
        cutter.add(picture)
        end_seconds = picture.end_seconds
    shots = cutter.finish(end_seconds)
    return Survey(tuple(shots), tuple(cutter.sharpness), end_seconds, sampler.finish(), cutter.looks)


def _pictures(path: str) -> Iterator[Picture]:
    try:
        yield from decode(path)
    except Dropped as dropped:
        raise Dropped("cannot be decoded", f"{dropped.reason}: {dropped.detail}") from None


class ShotCutter:
    """Cuts a stream of pictures into shots, and keeps the pictures that may be needed of each.

    `sharpness` is that of each picture so far, `looks` what was kept of the usable shots, None once there
    are more of them than `clips.max_shots`.
    """

    def __init__(self, detector: Detector, config: Config) -> None:
        self._detector = detector
        self._config = config
        self._waiting = Waiting(config.frames)
        self._shrinker = Shrinker(ANALYSIS_PIXELS)
        self._starts_seconds: list[float] = []
        self._start_frame = 0
        self._shots: list[Shot] = []
        self.sharpness: list[float] = []
        self.looks: Looks | None = Looks({}, [])

    def add(self, picture: Picture) -> None:
        """Takes the next picture."""
        image = self._shrinker.shrink(picture)
        # Four decimals: there is one number a frame in the row.
        self.sharpness.append(round(measure_sharpness(image), 4))
        self._starts_seconds.append(picture.start_seconds)
        self._waiting.add(picture, self.sharpness[-1])
        for cut in self._detector.add(image, picture.start_seconds):
            self._close(cut, self._starts_seconds[cut])

    def finish(self, end_seconds: float) -> list[Shot]:
        """The usable shots, in time order."""
        for cut in self._detector.finish():
            self._close(cut, self._starts_seconds[cut])
        self._close(len(self.sharpness), end_seconds)
        return self._shots

    def _close(self, end_frame: int, end_seconds: float) -> None:
        """Ends the open shot before `end_frame`."""
        start_frame = self._start_frame
        if end_frame <= start_frame:
            return
        self._start_frame = end_frame
        held = self._waiting.take(end_frame)
        if not held:
            # A shot so short that it shared a bucket with its neighbour, and lost: too short for any use.
            return
        middle = min(held, key=lambda one: abs(one.index - (start_frame + end_frame) // 2))
        image = middle.image(self._waiting.size)
        candidates = choose_candidates(held, self.sharpness[start_frame:end_frame], start_frame)
        thumbnail = cv2.resize(image, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
        shot = Shot(
            start_frame=start_frame,
            end_frame=end_frame,
            start_seconds=self._starts_seconds[start_frame],
            end_seconds=end_seconds,
            grey_range=measure_grey_range(thumbnail),
            descriptor=tuple(np.round(describe(thumbnail), 4).tolist()),
            candidates=tuple(one.index for one in candidates),
        )
        if _is_usable(shot, self._config.shots):
            self._shots.append(shot)
            self._keep(middle, candidates)

    def _keep(self, middle: Held, candidates: Sequence[Held]) -> None:
        """Encodes the pictures of a usable shot, unless the video can no longer be kept."""
        if len(self._shots) > self._config.clips.max_shots:
            self.looks = None
        if self.looks is not None:
            self.looks.candidates.update({one.index: self._encode(one) for one in candidates})
            self.looks.middles.append(self._encode(middle))

    def _encode(self, one: Held) -> bytes:
        return encode_jpeg(one.image(self._waiting.size), self._config.frames.jpeg_quality)


def _is_usable(shot: Shot, config: ShotsConfig) -> bool:
    return (
        shot.num_frames >= config.min_frames
        and shot.seconds >= config.min_seconds
        and shot.grey_range >= config.min_grey_range
    )
