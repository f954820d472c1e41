"""PySceneDetect's detectors, fed picture by picture."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any

import cv2
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from tempo.sections import ShotsConfig
from tempo.video.decoding import Image

#: Cuts closer than this are one, as in PySceneDetect (15 frames there, at 25 a second). With 8 frames the
#: four further cuts on real videos were all flashes or fast motion; a length in frames would in turn merge
#: true shots of a slow video.
MIN_SHOT_MICROSECONDS = 600_000


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
        return self._numbers(self._detector.process_frame(now, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)))

    def finish(self) -> list[int]:
        """Cuts that only the end of the video makes known."""
        last = FrameTimecode(self._starts_microseconds[-1], fps=1e6)
        return self._numbers(self._detector.post_process(last))

    def _numbers(self, cuts: Iterable[Any]) -> list[int]:
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]
