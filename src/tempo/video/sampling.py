"""Which pictures of a video are kept at an even rate while it streams."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from tempo.config import FramesConfig
from tempo.video.decoding import Picture, decode
from tempo.video.frames import Sampled, decode_jpegs, encode_jpeg
from tempo.video.patience import Beat

#: A video that gives this many times `max_frames` is thinned while it streams.
MAX_SURPLUS = 4


class Sampler:
    """Takes the picture shown in the middle of each 1 / fps seconds of a stream of pictures.

    Holds one picture, and at most MAX_SURPLUS * max_frames JPEGs, however long the video is: of more, every
    second, then every fourth stays, and `finish` gives those next before the evenly spread ones.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config = config
        self._shown: Picture | None = None
        self._jpegs: list[bytes] = []
        self._count = 0
        self._stride = 1

    def add(self, picture: Picture) -> None:
        """Takes the next picture of the video."""
        if self._shown is not None:
            self._take(self._shown, picture.start_seconds)
        else:
            # The size of the first picture holds for all, so that the frames of a video stack.
            self._first_size = picture.size
        self._shown = picture

    def finish(self) -> Sampled:
        """Frames per second are lower than asked if max_frames bit.

        A video shorter than half an interval gives its last frame.
        """
        assert self._shown is not None, "finish() before any add()"
        self._take(self._shown, self._shown.end_seconds)
        if not self._count:
            return Sampled([self._encode(self._shown)], [self._shown.start_seconds], self._config.fps)
        kept = [number // self._stride for number in spread(self._count, self._config.max_frames)]
        fps = self._config.fps * len(kept) / self._count
        jpegs = [self._fitted(self._jpegs[i], len(kept)) for i in kept]
        return Sampled(jpegs, [self._seconds(i * self._stride) for i in kept], fps)

    def _take(self, picture: Picture, until_seconds: float) -> None:
        """Takes `picture` for each sample time before `until_seconds`; encoded once."""
        jpeg = b""
        while self._seconds(self._count) < until_seconds:
            if self._count % self._stride == 0:
                jpeg = jpeg or self._encode(picture)
                self._jpegs.append(jpeg)
            self._count += 1
            if len(self._jpegs) > MAX_SURPLUS * self._config.max_frames:
                self._jpegs, self._stride = self._jpegs[::2], 2 * self._stride

    def _seconds(self, number: int) -> float:
        return (number + 0.5) / self._config.fps

    def _size(self, num_frames: int) -> tuple[int, int]:
        """Width and height of each of so many frames."""
        max_pixels, total = self._config.max_pixels, self._config.max_total_pixels
        if total is not None:
            max_pixels = min(max_pixels, total // min(num_frames, self._config.max_frames))
        return fit_size(*self._first_size, max_pixels=max_pixels)

    def _encode(self, picture: Picture) -> bytes:
        """As small as it will surely be in the end."""
        size = self._size(len(self._jpegs) + 1)
        return encode_jpeg(picture.scaled(*size), self._config.jpeg_quality)

    def _fitted(self, jpeg: bytes, num_frames: int) -> bytes:
        """One of so many frames, made smaller if that many together have too many pixels."""
        if self._config.max_total_pixels is None:
            return jpeg
        (image,), size = decode_jpegs([jpeg]), self._size(num_frames)
        if image.shape[1::-1] == size:
            return jpeg
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return encode_jpeg(small, self._config.jpeg_quality)


def sample_video(path: str | Path, config: FramesConfig, beat: Beat = lambda: None) -> Sampled:
    """What a Sampler takes of a whole video; raises SkipRecord. Beats at every picture."""
    sampler = Sampler(config)
    for picture in decode(path):
        beat()
        sampler.add(picture)
    return sampler.finish()


def fit_size(width: int, height: int, *, max_pixels: int) -> tuple[int, int]:
    """The largest width and height of about this ratio within `max_pixels`; never upscaled, never 0."""
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    # A very long and thin picture keeps at least one pixel across, and gives up length for it.
    fitted_height = max(1, int(height * scale))
    fitted_width = max(1, min(int(width * scale), max_pixels // fitted_height))
    return fitted_width, min(fitted_height, max_pixels // fitted_width)


def spread(count: int, at_most: int) -> list[int]:
    """All of `count` indices, or the middles of `at_most` even parts of them."""
    if count <= at_most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * at_most) for part in range(at_most)]
