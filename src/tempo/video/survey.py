"""One pass over a video gives all that selection needs: shots, sharpness, pictures to keep.

A second one is made only for wanted pictures that did not fit in memory (album.py).

Its memory does not grow with the video, but for some numbers and, while the video may still be kept, ten
small pictures for each shot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tempo.config import Config, ShotsConfig
from tempo.core.records import RejectedShot, Shot
from tempo.engine.types import SkipRecord
from tempo.video.album import Album
from tempo.video.decoding import Picture, decode
from tempo.video.detectors import Detector, make_detector
from tempo.video.frames import Looks, Sampled
from tempo.video.patience import Pulse, with_patience
from tempo.video.pictures import describe, measure_grey_range, measure_sharpness
from tempo.video.sampling import Sampler
from tempo.video.shrinking import Shrinker
from tempo.video.videos import check_shape
from tempo.video.waiting import THUMBNAIL_SIZE, Held, Waiting, choose_candidates

#: Longer side in pixels, at most, of the picture that cuts and sharpness are measured on. PySceneDetect's
#: thresholds are made for about this; half of it gives the same cuts on real videos. The model sees about as
#: many pixels by default, so finer blur would not matter to it.
ANALYSIS_PIXELS = 256

#: As many pictures are decoded in one go, in so much memory. If decoder and measuring took turns at each
#: picture, each would find the other's code and data in the processor's caches: a thirtieth of the time.
NUM_AHEAD, AHEAD_BYTES = 4, 4 << 20


@dataclass(frozen=True)
class Survey:
    """What one pass over a video finds; `looks` is None for a video of which no clips can be made."""

    shots: tuple[Shot, ...]
    rejected: tuple[RejectedShot, ...]
    num_frames: int
    duration_seconds: float
    sampled: Sampled
    looks: Looks | None


def survey(path: str, config: Config) -> Survey:
    """One pass over the video; raises SkipRecord ("cannot be decoded", "picture too thin", "decoder hangs")."""
    return with_patience(lambda pulse: _pass(path, config, pulse), config.videos.timeout_seconds)


def _pass(path: str, config: Config, pulse: Pulse) -> Survey:
    # Loading and asking a learned detector may take longer than a picture ever does.
    pulse.rest()
    sampler = Sampler(config.frames)
    cutter = ShotCutter(make_detector(config.shots), config)
    end_seconds = 0.0
    for picture in _pictures(path, pulse):
        if picture.index == 0:
            check_shape(*picture.size)
        sampler.add(picture)
        cutter.add(picture)
        end_seconds = picture.end_seconds
    shots = tuple(cutter.finish(end_seconds))
    looks = _looks(path, cutter.album, shots, pulse) if cutter.album else None
    return Survey(shots, tuple(cutter.rejected), cutter.num_frames, end_seconds, sampler.finish(), looks)


def _pictures(path: str, pulse: Pulse) -> Iterator[Picture]:
    """All pictures of the video, a few decoded before the first of them is looked at."""
    ahead: list[Picture] = []
    pulse.beat()
    try:
        for picture in decode(path):
            pulse.beat()
            ahead.append(picture)
            if len(ahead) == NUM_AHEAD or len(ahead) * picture.num_bytes >= AHEAD_BYTES:
                pulse.rest()
                yield from ahead
                pulse.beat()
                ahead.clear()
    except SkipRecord as dropped:
        raise SkipRecord("cannot be decoded", f"{dropped.reason}: {dropped.detail}") from None
    pulse.rest()
    yield from ahead


def _looks(path: str, album: Album, shots: Sequence[Shot], pulse: Pulse) -> Looks | None:
    """What the album has, after a second pass for what did not fit into it."""
    if missing := album.missing(shots):
        for picture in _pictures(path, pulse):
            if picture.index in missing:
                album.put(picture)
            if picture.index >= max(missing):
                break
    return album.looks(shots)


class ShotCutter:
    """Cuts a stream of pictures into shots, and keeps the pictures that may be needed of each.

    `num_frames` counts the pictures so far, `album` has those that clips may be made by, `rejected` are the
    shots that are of no use.
    """

    def __init__(self, detector: Detector, config: Config) -> None:
        self._detector = detector
        self._config = config
        self._waiting = Waiting()
        self._shrinker = Shrinker(ANALYSIS_PIXELS, config.frames.max_pixels)
        self.album: Album | None = None
        self._starts_seconds: list[float] = []
        self._start_frame = 0
        self._shots: list[Shot] = []
        self.num_frames = 0
        self.rejected: list[RejectedShot] = []

    def add(self, picture: Picture) -> None:
        """Takes the next picture."""
        # The size of the first picture holds for all, as in the frame store.
        self.album = self.album or Album(picture.size, self._config)
        image, small = self._shrinker.shrink(picture)
        # Four decimals: some of these numbers stand in the row.
        self._waiting.add(Held(picture.index, round(measure_sharpness(image), 4), small))
        self._starts_seconds.append(picture.start_seconds)
        self.num_frames += 1
        self._close_at(self._detector.add(image, picture.start_seconds))

    def finish(self, end_seconds: float) -> list[Shot]:
        """The usable shots, in time order."""
        self._close_at(self._detector.finish())
        if self.num_frames > self._start_frame:
            self._close(self.num_frames, end_seconds)
        return self._shots

    def _close_at(self, cuts: Sequence[int]) -> None:
        for cut in cuts:
            if cut > self._start_frame:
                self._close(cut, self._starts_seconds[cut - self._start_frame])

    def _close(self, end_frame: int, end_seconds: float) -> None:
        """Ends the open shot before `end_frame`."""
        start_frame, start_seconds = self._start_frame, self._starts_seconds[0]
        self._start_frame = end_frame
        del self._starts_seconds[: end_frame - start_frame]
        held = self._waiting.take(end_frame)
        if not held:
            # Of a few pictures among many hundred, whose cut was told later still: too short for any use.
            return
        middle = min(held, key=lambda one: abs(one.index - (start_frame + end_frame) // 2))
        candidates = choose_candidates(held, start_frame, end_frame)
        thumbnail = middle.source.scaled(*THUMBNAIL_SIZE)
        shot = Shot(
            start_frame=start_frame,
            end_frame=end_frame,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            grey_range=measure_grey_range(thumbnail),
            descriptor=tuple(np.round(describe(thumbnail), 4).tolist()),
            candidates=tuple(one.index for one in candidates),
            sharpness=tuple(one.sharpness for one in candidates),
        )
        if fault := _fault(shot, self._config.shots):
            self.rejected.append(RejectedShot(start_frame=start_frame, end_frame=end_frame, reason=fault))
            return
        self._shots.append(shot)
        assert self.album is not None, "a picture waits, so there was a first"
        self.album.add(self._shots, middle, candidates)


def _fault(shot: Shot, config: ShotsConfig) -> str:
    """Why a shot is of no use; empty where it is."""
    if shot.num_frames < config.min_frames:
        return f"{shot.num_frames} frames, min_frames is {config.min_frames}"
    if shot.seconds < config.min_seconds:
        return f"{shot.seconds:.3f} seconds, min_seconds is {config.min_seconds:g}"
    if shot.grey_range < config.min_grey_range:
        return f"grey range {shot.grey_range}, min_grey_range is {config.min_grey_range}"
    return ""
