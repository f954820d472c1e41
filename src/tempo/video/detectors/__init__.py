"""Shot detectors: one interface, one algorithm a file. Each is loaded only when it is configured."""

from __future__ import annotations

from typing import Protocol

from tempo.config import ShotsConfig
from tempo.video.decoding import Image


class Detector(Protocol):
    """Finds cuts in the pictures of one video; may tell them late, but in order."""

    def add(self, image: Image, start_seconds: float) -> list[int]:
        """Cuts that the next RGB picture makes known, as the frame numbers at which new shots begin."""
        ...

    def finish(self) -> list[int]:
        """Cuts that only the end of the video makes known."""
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
