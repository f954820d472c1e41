"""Shot detectors: one interface, one file per algorithm. Only the configured one is imported."""

from __future__ import annotations

from typing import Protocol

from tempo.config import ShotsConfig
from tempo.video.decode import Image


class Detector(Protocol):
    """Finds the cuts of one video, given its frames in order."""

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """Numbers of frames that begin a new shot, as far as the next RGB frame makes them known.

        Cuts may become known late, but in order. None stands for the end of the video.
        """
        ...


def check_detector(config: ShotsConfig) -> None:
    """Raises ValueError where the package of the configured detector is not installed."""
    if config.detector == "transnet":
        from tempo.video.detectors.transnet import check_installed

        check_installed()


def make_detector(config: ShotsConfig) -> Detector:
    """The configured detector, for one video."""
    if config.detector == "transnet":
        from tempo.video.detectors.transnet import TransNetDetector

        return TransNetDetector(config)
    from tempo.video.detectors.scene_detect import SceneDetectDetector

    return SceneDetectDetector(config)
