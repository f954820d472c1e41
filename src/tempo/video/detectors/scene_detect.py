"""PySceneDetect's detectors, fed picture by picture."""

from __future__ import annotations

import bisect
from array import array
from typing import Any

import cv2
from scenedetect import FrameTimecode
from scenedetect.detector import FlashFilter
from scenedetect.detectors import AdaptiveDetector

from tempo.config import ShotsConfig
from tempo.video.decoding import Image

#: Cuts closer than this are one, as in PySceneDetect (15 frames there, at 25 a second). With 8 frames the
#: four further cuts on real videos were all flashes or fast motion; a length in frames would in turn merge
#: true shots of a slow video.
MIN_SCENE_SECONDS = 0.6

#: The threshold of PySceneDetect's ContentDetector.
CONTENT_THRESHOLD = 27.0


class SceneDetectDetector:
    """PySceneDetect's ContentDetector or AdaptiveDetector; its own threshold unless one is configured."""

    def __init__(self, config: ShotsConfig) -> None:
        self._detector = _Content(config) if config.detector == "content" else _Adaptive(config)
        # The library counts frames; counting microseconds instead, uneven rates do no harm.
        self._starts_microseconds = array("q")

    def add(self, image: Image, start_seconds: float) -> list[int]:
        """Cuts that the next RGB picture makes known, as the frame numbers at which new shots begin."""
        self._starts_microseconds.append(round(start_seconds * 1e6))
        cuts = self._detector.add(image, self._starts_microseconds[-1])
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]

    def finish(self) -> list[int]:
        """None: neither detector waits for the end."""
        return []


class _Content:
    """The score and the filter of ContentDetector, whose own sums in 32 bits take five times as long.

    The score is the mean difference of hue, saturation and value to the picture before.
    """

    def __init__(self, config: ShotsConfig) -> None:
        self._threshold = config.threshold or CONTENT_THRESHOLD
        self._min_scene = _min_scene_microseconds(config)
        self._filter = FlashFilter(FlashFilter.Mode.MERGE, self._min_scene)
        self._last: Any = None
        self._last_change = -self._min_scene
        self._is_quiet = False

    def add(self, image: Image, now: int) -> list[Any]:
        # As one long row: OpenCV takes the end of each, less than a vector long, pixel by pixel.
        hsv = cv2.cvtColor(image.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)
        changes = self._last is not None and self._score(hsv) >= self._threshold
        self._last = hsv
        self._last_change = now if changes else self._last_change
        # A filter that merges nothing needs no quiet picture, and its numbers take longer than the score.
        if self._is_quiet and not changes:
            return []
        cuts = list(self._filter.filter(_timecode(now), above_threshold=changes))
        has_settled = not changes and now - self._last_change >= self._min_scene
        self._is_quiet = bool(cuts) or has_settled
        return cuts

    def _score(self, hsv: Any) -> float:
        return float(cv2.norm(hsv, self._last, cv2.NORM_L1)) / float(hsv.size)


class _Adaptive:
    """AdaptiveDetector as it is."""

    def __init__(self, config: ShotsConfig) -> None:
        options: dict[str, Any] = {"adaptive_threshold": config.threshold} if config.threshold else {}
        self._detector = AdaptiveDetector(min_scene_len=_min_scene_microseconds(config), **options)

    def add(self, image: Image, now: int) -> list[Any]:
        return list(self._detector.process_frame(_timecode(now), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)))


def _min_scene_microseconds(config: ShotsConfig) -> int:
    return max(1, round(1e6 * (config.min_scene_seconds or MIN_SCENE_SECONDS)))


def _timecode(microseconds: int) -> FrameTimecode:
    return FrameTimecode(microseconds, fps=1e6)
