"""PySceneDetect's ContentDetector and AdaptiveDetector, frame by frame."""

from __future__ import annotations

import bisect
from array import array
from fractions import Fraction
from typing import Any

import cv2
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from tempo.config import ShotsConfig
from tempo.video.decode import Image

#: Cuts closer than this are merged, as in PySceneDetect (15 frames at 25 a second). Its limit in frames would
#: merge true shots of a video with few frames a second.
MIN_SCENE_SECONDS = 0.6

MICROSECONDS = Fraction(1_000_000)


class SceneDetectDetector:
    """The library's detector with its own threshold unless one is configured."""

    def __init__(self, config: ShotsConfig) -> None:
        # The library counts frames. It is given microseconds instead, so that uneven frame rates do no harm.
        self._starts_microseconds = array("q")
        min_scene = max(1, round(1e6 * (config.min_scene_seconds or MIN_SCENE_SECONDS)))
        options: dict[str, Any] = {"min_scene_len": min_scene}
        is_content = config.detector == "content"
        if config.threshold:
            options["threshold" if is_content else "adaptive_threshold"] = config.threshold
        self._detector = ContentDetector(**options) if is_content else AdaptiveDetector(**options)

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """See `Detector`; the end makes no further cut known."""
        if image is None:
            return []
        self._starts_microseconds.append(round(start_seconds * 1e6))
        now = FrameTimecode(self._starts_microseconds[-1], fps=MICROSECONDS)
        cuts = self._detector.process_frame(now, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]
