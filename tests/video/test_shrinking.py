import av
import cv2
import numpy as np
import pytest
from video_material import place, rotate

from tempo.video.decoding import Picture, decode
from tempo.video.sampling import fit_size
from tempo.video.shrinking import Shrinker, Small, count_halvings


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
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
def test_a_picture_comes_small_and_true(render, size, max_side, expected):
    large = cv2.resize(place(3), size, interpolation=cv2.INTER_AREA)
    picture = next(decode(render([large] * 2)))
    image, _ = Shrinker(max_side, 64).shrink(picture)
    assert (image.shape[:2], image.dtype) == (expected, np.uint8)
    # Of sides that cannot be halved so often some pixels are cut off, so the places differ a little.
    cut_off = size[0] - (image.shape[1] << count_halvings(size, max_side))
    exact = picture.scaled(image.shape[1], image.shape[0]).astype(int)
    assert cut_off or np.abs(image.astype(int) - exact).mean() < 12


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("stored_pixels", [64, 96 * 64 // 4, 96 * 64])
def test_both_come_as_shown(render, quarter_turns, stored_pixels):
    path = render([place(1)] * 2)
    rotate(path, quarter_turns)
    picture = next(decode(path))
    image, waits = Shrinker(50, stored_pixels).shrink(picture)
    assert image.shape == ((48, 32, 3) if quarter_turns % 2 else (32, 48, 3))
    exact = picture.scaled(image.shape[1], image.shape[0]).astype(int)
    assert np.abs(image.astype(int) - exact).mean() < 8
    small = waits.scaled(*fit_size(*picture.size, max_pixels=stored_pixels))
    exact = picture.scaled(small.shape[1], small.shape[0]).astype(int)
    assert np.abs(small.astype(int) - exact).mean() < 8


@pytest.mark.parametrize(
    ("stored_pixels", "num_bytes"),
    [(24 * 16, 24 * 16 * 3 // 2), (24 * 16 + 49, 48 * 32 * 3 // 2), (48 * 32, 48 * 32 * 3 // 2)],
)
def test_what_waits_is_just_large_enough_to_be_stored(render, stored_pixels, num_bytes):
    _, waits = Shrinker(24, stored_pixels).shrink(next(decode(render([place(1)] * 2))))
    assert isinstance(waits, Small)
    assert waits.num_bytes == num_bytes


def test_a_picture_that_is_stored_whole_waits_itself(render):
    picture = next(decode(render([place(1)] * 2)))
    assert Shrinker(24, 48 * 32 + 100).shrink(picture)[1] is picture
    assert Shrinker(96, 64).shrink(picture)[1] is picture


@pytest.mark.parametrize("colours", [(1, 1), (1, 2), (5, 1), (9, 1), (2, 0)])
def test_what_waits_has_the_colours_of_the_file(colours):
    """Colour space and range of each frame are those that it is shown in."""
    frame = av.VideoFrame.from_ndarray(place(2), "rgb24").reformat(format="yuv420p")
    frame.colorspace, frame.color_range = colours
    picture = Picture(0, 0.0, 1.0, frame, 0, {})
    _, waits = Shrinker(48, 24 * 16).shrink(picture)
    assert isinstance(waits, Small)
    assert np.abs(waits.scaled(24, 16).astype(int) - picture.scaled(24, 16)).mean() < 3


@pytest.mark.parametrize("name", ["yuv444p", "gray", "rgb24", "yuv420p10le", "nv12", "yuvj420p"])
@pytest.mark.parametrize("stored_pixels", [24 * 16, 96 * 64])
def test_other_formats_come_as_well(name, stored_pixels):
    frame = av.VideoFrame.from_ndarray(place(2), "rgb24").reformat(format=name)
    picture = Picture(0, 0.0, 1.0, frame, 0, {})
    image, waits = Shrinker(48, stored_pixels).shrink(picture)
    assert np.abs(image.astype(int) - picture.scaled(48, 32)).mean() < 12
    assert np.abs(waits.scaled(24, 16).astype(int) - picture.scaled(24, 16)).mean() < 8


def test_pictures_of_another_size_come_in_the_size_of_the_first(render):
    shrinker = Shrinker(50, 24 * 16)
    first, one = shrinker.shrink(next(decode(render([place(1)] * 2))))
    other, two = shrinker.shrink(next(decode(render([place(1, width=48, height=40)] * 2, "other.mp4"))))
    assert first.shape == other.shape == (32, 48, 3)
    assert one.scaled(24, 16).shape == two.scaled(24, 16).shape == (16, 24, 3)
