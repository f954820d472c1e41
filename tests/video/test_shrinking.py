import cv2
import numpy as np
import pytest
from video_material import place, rotate

from tempo.video.decoding import decode
from tempo.video.shrinking import Shrinker


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((96, 64), 96, (64, 96)),
        ((96, 64), 95, (32, 48)),
        ((96, 64), 30, (16, 24)),
        ((180, 132), 50, (32, 44)),
        ((60, 8), 10, (1, 6)),
        ((4, 4), 256, (4, 4)),
        ((2, 2), 256, (2, 2)),
    ],
)
def test_a_picture_comes_small_and_true(render, size, max_pixels, expected):
    large = cv2.resize(place(3), size, interpolation=cv2.INTER_AREA)
    picture = next(decode(render([large] * 2)))
    image = Shrinker(max_pixels).shrink(picture)
    assert (image.shape[:2], image.dtype) == (expected, np.uint8)
    # Of sides that cannot be halved so often some pixels are cut off, so the places differ a little.
    cut_off = size[0] - (image.shape[1] << Shrinker(max_pixels).halvings(size))
    exact = picture.scaled(image.shape[1], image.shape[0]).astype(int)
    assert cut_off or np.abs(image.astype(int) - exact).mean() < 12


def test_a_rotated_picture_comes_as_shown(render):
    path = render([place(1)] * 2)
    rotate(path, 1)
    picture = next(decode(path))
    image = Shrinker(50).shrink(picture)
    assert image.shape == (48, 32, 3)
    assert np.abs(image.astype(int) - picture.scaled(32, 48)).mean() < 8


def test_a_picture_of_another_size_comes_in_the_size_of_the_first(render):
    shrinker = Shrinker(50)
    first = shrinker.shrink(next(decode(render([place(1)] * 2))))
    other = shrinker.shrink(next(decode(render([place(1, width=48, height=40)] * 2, "other.mp4"))))
    assert first.shape == other.shape == (32, 48, 3)
