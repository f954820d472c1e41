"""Small pictures to measure on, in a third of the time that an exact conversion takes. H height, W width."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from tempo.video.decoding import Image, Picture

#: The planes of brightness and colour lie one after the other, colour at half the size; eight bits.
PLANAR = ("yuv420p", "yuvj420p")


class Shrinker:
    """Pictures of one video as RGB uint8 [H, W, 3], all of one size, the longer side under `max_pixels`.

    Planes are halved, which the machine does fast, and only then put together; the colours are those of
    television, whatever the file says. Other formats, and pictures that are unlike the first, are scaled.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._halvings = 0
        self._coded: tuple[int, int] | None = None
        self._size = (1, 1)

    def shrink(self, picture: Picture) -> Image:
        """The picture as shown, small."""
        coded = picture.frame.width, picture.frame.height
        if self._coded is None:
            self._set_size(picture)
            self._coded = coded
        fits = coded == self._coded and picture.frame.format.name in PLANAR and not picture.quarter_turns
        if fits and min(self._size) >= 2:
            return self._from_planes(picture.frame)
        return picture.scaled(*self._size, fine=False)

    def halvings(self, size: tuple[int, int]) -> int:
        """How often a picture of this size is halved."""
        halvings = 0
        while max(size) >> halvings > self._max_pixels:
            halvings += 1
        return halvings

    def _set_size(self, picture: Picture) -> None:
        self._halvings = self.halvings(picture.size)
        # Colour planes are half as large, so the sides are even where there are two pixels at all.
        width, height = (max(1, side >> self._halvings) for side in picture.size)
        self._size = (width // 2 * 2 or 1, height // 2 * 2 or 1)

    def _from_planes(self, frame: Any) -> Image:
        width, height = self._size
        planes = []
        for plane, part in zip(frame.planes, (1, 2, 2), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            wide, high = (width // part) << self._halvings, (height // part) << self._halvings
            pixels = rows[:high, :wide]
            for _ in range(self._halvings):
                size = pixels.shape[1] // 2, pixels.shape[0] // 2
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            planes.append(pixels.ravel())
        packed = np.concatenate(planes).reshape(height * 3 // 2, width)
        return np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420), np.uint8)
