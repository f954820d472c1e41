"""Small pictures, made by halving, which the machine does fastest. H height, W width.

Of each decoded frame two are made in one go: one to measure on, and one that may wait until its shot has
ended, just large enough that a stored frame can still be made of it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np

from tempo.video.decoding import Image, Picture, turned
from tempo.video.sampling import fit_size

#: The planes of brightness and colour lie one after the other, colour at half the size; eight bits.
PLANAR = ("yuv420p", "yuvj420p")

#: Colour space and range of a frame that does not tell them.
UNSPECIFIED = (2, 0)


@dataclass(frozen=True)
class Small:
    """What waits of a picture, uint8: planes, colour at half the size [H * 3 / 2, W], or RGB [H, W, 3]."""

    pixels: Image
    format: str
    colours: tuple[int, int]
    quarter_turns: int
    _scalers: dict[tuple[int, int], Any]

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self.pixels.nbytes

    def scaled(self, width: int, height: int) -> Image:
        """The picture as shown, RGB, uint8 [height, width, 3]."""
        frame = av.VideoFrame.from_ndarray(self.pixels, self.format)
        frame.colorspace, frame.color_range = self.colours
        return Picture(0, 0.0, 0.0, frame, self.quarter_turns, self._scalers).scaled(width, height)


class Shrinker:
    """Pictures of one video, all made as small as the first.

    Those to measure on are RGB uint8 [H, W, 3], the longer side at most `max_side`, in the colours of
    television whatever the file says; those that wait are as large as a frame of `stored_pixels`, up to twice
    that. Pixels that do not halve evenly are cut off at the right and the bottom. Other formats, and pictures
    that are unlike the first, are scaled.
    """

    def __init__(self, max_side: int, stored_pixels: int) -> None:
        self._max_side = max_side
        self._stored_pixels = stored_pixels
        self._like: tuple[int, int, int] | None = None
        self._scalers: dict[tuple[int, int], Any] = {}

    def shrink(self, picture: Picture) -> tuple[Image, Picture | Small]:
        """The picture as shown, to measure on; and what may wait, the picture itself if it is small."""
        like = picture.frame.width, picture.frame.height, picture.quarter_turns
        if self._like is None:
            self._set_sizes(picture)
            self._like = like
        if like == self._like and picture.frame.format.name in PLANAR and min(self._size) >= 2:
            return self._halved(picture)
        return self._scaled(picture)

    def _set_sizes(self, picture: Picture) -> None:
        self._halvings = count_halvings(picture.size, self._max_side)
        # Colour planes are half as large, so the sides are even where there are two pixels at all.
        width, height = (max(1, side >> self._halvings) for side in picture.size)
        self._size = (width // 2 * 2 or 1, height // 2 * 2 or 1)
        stored = fit_size(*picture.size, max_pixels=self._stored_pixels)
        self._doublings = 0
        while self._doublings < self._halvings and any(map(operator.lt, self._waiting_size, stored)):
            self._doublings += 1

    @property
    def _waiting_size(self) -> tuple[int, int]:
        """Width and height of what waits: as small as what is measured, or twice that as often as needed."""
        return self._size[0] << self._doublings, self._size[1] << self._doublings

    def _halved(self, picture: Picture) -> tuple[Image, Picture | Small]:
        planes = self._cut_planes(picture)
        waits: Picture | Small = picture
        for left in reversed(range(self._halvings)):
            packed, planes = _halve_planes(planes)
            if left == self._doublings:
                waits = self._small(picture, packed)
        if not self._halvings:
            packed = _pack(planes)
        image = np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420), np.uint8)
        return turned(image, picture.quarter_turns), waits

    def _small(self, picture: Picture, packed: Image) -> Small:
        frame = picture.frame
        colours = frame.colorspace, frame.color_range
        return Small(packed, frame.format.name, colours, picture.quarter_turns, self._scalers)

    def _cut_planes(self, picture: Picture) -> list[Image]:
        """The planes without the pixels that do not halve evenly; views of the frame."""
        width, height = self._size[:: -1 if picture.quarter_turns % 2 else 1]
        planes = []
        for plane, part in zip(picture.frame.planes, (1, 2, 2), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            planes.append(rows[: height // part << self._halvings, : width // part << self._halvings])
        return planes

    def _scaled(self, picture: Picture) -> tuple[Image, Picture | Small]:
        if self._doublings == self._halvings:
            return picture.scaled(*self._size), picture
        image = picture.scaled(*self._waiting_size)
        return halve(image, self._doublings), Small(image, "rgb24", UNSPECIFIED, 0, self._scalers)


def count_halvings(size: tuple[int, int], max_side: int) -> int:
    """How often a picture of this width and height is halved until no side is over `max_side`."""
    halvings = 0
    while max(size) >> halvings > max_side:
        halvings += 1
    return halvings


def halve(pixels: Image, times: int) -> Image:
    """Width and height halved so often, each time the mean of four pixels; both must come out even."""
    for _ in range(times):
        size = pixels.shape[1] // 2, pixels.shape[0] // 2
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels


def _pack(planes: Sequence[Image]) -> Image:
    """The planes of brightness and of half as wide and high colour in one array: [H * 3 / 2, W]."""
    height, width = planes[0].shape
    packed = np.empty((height * 3 // 2, width), np.uint8)
    for plane, place in zip(planes, _unpack(packed), strict=True):
        place[:] = plane
    return packed


def _halve_planes(planes: Sequence[Image]) -> tuple[Image, list[Image]]:
    """The planes half as wide and high, in one array and as views of it."""
    height, width = planes[0].shape
    packed = np.empty((height // 2 * 3 // 2, width // 2), np.uint8)
    places = _unpack(packed)
    for plane, place in zip(planes, places, strict=True):
        cv2.resize(plane, place.shape[::-1], dst=place, interpolation=cv2.INTER_AREA)
    return packed, places


def _unpack(packed: Image) -> list[Image]:
    """The three planes, views."""
    height, width = packed.shape[0] * 2 // 3, packed.shape[1]
    return [packed[:height], *packed[height:].reshape(2, height // 2, width // 2)]
