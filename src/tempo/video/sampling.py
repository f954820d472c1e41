"""Which pictures of a video are kept: at an even rate while it streams, or by number in a second pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from tempo.sections import FramesConfig
from tempo.stage import Dropped
from tempo.video.decoding import Picture, decode
from tempo.video.frames import encode_jpeg


class Sampler:
    """Takes the picture shown in the middle of each 1 / fps seconds of a stream of pictures.

    Holds one picture, and the JPEGs taken: at the default size about 5 kB for each 1 / fps seconds.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config = config
        self._shown: Picture | None = None
        self._jpegs: list[bytes] = []
        self._seconds: list[float] = []

    def add(self, picture: Picture) -> None:
        """Takes the next picture of the video."""
        if self._shown is not None:
            self._take(self._shown, picture.start_seconds)
        else:
            self._size = fit_size(*picture.size, max_pixels=self._config.max_pixels)
        self._shown = picture

    def finish(self) -> tuple[list[bytes], list[float], float]:
        """JPEGs, their times in seconds, and frames per second, lower than asked if max_frames bit.

        A video shorter than half an interval gives its last frame.
        """
        assert self._shown is not None, "finish() before any add()"
        self._take(self._shown, self._shown.end_seconds)
        if not self._jpegs:
            return [self._encode(self._shown)], [self._shown.start_seconds], self._config.fps
        kept = spread(len(self._jpegs), self._config.max_frames)
        fps = self._config.fps * len(kept) / len(self._jpegs)
        return [self._jpegs[i] for i in kept], [self._seconds[i] for i in kept], fps

    def _take(self, picture: Picture, until_seconds: float) -> None:
        """Takes `picture` for each sample time before `until_seconds`; encoded once."""
        jpeg = b""
        while (seconds := (len(self._seconds) + 0.5) / self._config.fps) < until_seconds:
            jpeg = jpeg or self._encode(picture)
            self._jpegs.append(jpeg)
            self._seconds.append(seconds)

    def _encode(self, picture: Picture) -> bytes:
        # The size of the first picture holds for all, so that the frames of a video stack.
        return encode_jpeg(picture.scaled(*self._size), self._config.jpeg_quality)


def sample_video(path: str | Path, config: FramesConfig) -> tuple[list[bytes], list[float], float]:
    """What a Sampler takes of a whole video: JPEGs, times in seconds, frames per second; raises Dropped."""
    sampler = Sampler(config)
    for picture in decode(path):
        sampler.add(picture)
    return sampler.finish()


def fetch_frames(path: str, indices: Iterable[int], config: FramesConfig) -> list[bytes]:
    """JPEGs of the pictures with these decoded frame numbers, in the order asked for; raises Dropped."""
    # A second decode of the file, up to the last picture wanted; issue 4 will merge it with the first.
    wanted = list(indices)
    last = max(wanted)
    found: dict[int, bytes] = {}
    size: tuple[int, int] | None = None
    for picture in decode(path):
        size = size or fit_size(*picture.size, max_pixels=config.max_pixels)
        if picture.index in wanted:
            found[picture.index] = encode_jpeg(picture.scaled(*size), config.jpeg_quality)
        if picture.index >= last:
            break
    if missing := sorted(set(wanted) - set(found)):
        raise Dropped("cannot be decoded", f"frames {missing} did not decode a second time")
    return [found[index] for index in wanted]


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
