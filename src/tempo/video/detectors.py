"""Shot detectors: one interface, PySceneDetect's detectors, and the choice among all detectors."""

from __future__ import annotations

import bisect
from array import array
from fractions import Fraction
from typing import Any, Protocol

import cv2
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from tempo.config import ShotsConfig
from tempo.video.decode import Image
from tempo.video.transnet import TransNetDetector, check_installed

#: Cuts closer than this are merged: PySceneDetect's 15 frames, at 25 frames a second.
MIN_SCENE_SECONDS = 0.6


class Detector(Protocol):
    """Finds the cuts of one video, given its frames in order."""

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """Numbers of the frames that begin a new shot and become known with the next RGB frame, in order.

        Cuts may become known late. None marks the end of the video.
        """


def check_detector(config: ShotsConfig) -> None:
    """Raises ValueError if the package of the configured detector is not installed."""
    if config.detector == "transnet":
        check_installed()


def make_detector(config: ShotsConfig) -> Detector:
    """The configured detector, for one video."""
    return TransNetDetector(config) if config.detector == "transnet" else SceneDetectDetector(config)


class SceneDetectDetector:
    """PySceneDetect's ContentDetector or AdaptiveDetector, with its own or the configured threshold."""

    def __init__(self, config: ShotsConfig) -> None:
        # The library counts frames. It is given microseconds instead, so that frame rates may be uneven.
        self._starts_microseconds = array("q")
        min_scene = max(1, round(1e6 * (config.min_scene_seconds or MIN_SCENE_SECONDS)))
        options: dict[str, Any] = {"min_scene_len": min_scene}
        is_content = config.detector == "content"
        if config.threshold:
            options["threshold" if is_content else "adaptive_threshold"] = config.threshold
        self._detector = ContentDetector(**options) if is_content else AdaptiveDetector(**options)
        self._detector._calculate_frame_score = self._score
        self._hsv: Any = None

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """See `Detector`; the end of the video reveals no further cut."""
        if image is None:
            return []
        self._starts_microseconds.append(round(start_seconds * 1e6))
        now = FrameTimecode(self._starts_microseconds[-1], fps=Fraction(1_000_000))
        cuts = self._detector.process_frame(now, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]

    def _score(self, timecode: FrameTimecode, image: Image) -> float:
        """The library's score (its weights are equal), which it computes in three times as long."""
        previous, self._hsv = self._hsv, cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        return 0.0 if previous is None else cv2.norm(self._hsv, previous, cv2.NORM_L1) / previous.size
