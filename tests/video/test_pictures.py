import cv2
import numpy as np
import pytest
from video_material import place, plain

from tempo.video.pictures import describe, measure_grey_range, measure_sharpness


def test_a_flat_picture_has_no_sharpness():
    assert measure_sharpness(plain()) == 0.0


def test_blur_lowers_sharpness():
    sharp = place(1)
    assert measure_sharpness(cv2.GaussianBlur(sharp, (9, 9), 0)) < 0.7 * measure_sharpness(sharp)


def test_sharpness_of_one_bright_pixel_is_as_computed_by_hand():
    picture = plain(colour=(0, 0, 0))
    picture[30, 40] = 160
    blurred = np.zeros((7, 7))
    blurred[2:5, 2:5] = np.outer([1, 2, 1], [1, 2, 1]) * 160 / 16
    kernel = np.array([[2, 0, 2], [0, -8, 0], [2, 0, 2]])
    expected = (
        sum(abs((blurred[y : y + 3, x : x + 3] * kernel).sum()) for y in range(5) for x in range(5))
        / picture[..., 0].size
    )
    assert measure_sharpness(picture) == pytest.approx(expected)


@pytest.mark.parametrize(("dark", "bright"), [(0, 255), (90, 90), (90, 99)])
def test_the_grey_range_is_the_brightest_less_the_darkest(dark, bright):
    picture = plain(colour=(dark,) * 3)
    picture[5, 5] = bright
    assert measure_grey_range(picture) == bright - dark


@pytest.mark.parametrize(
    "picture", [place(1), plain(), plain(colour=(0, 0, 0)), place(1)[:9, :5], plain()[:1, :1]]
)
def test_a_descriptor_has_128_numbers_and_length_1(picture):
    descriptor = describe(np.ascontiguousarray(picture))
    assert descriptor.shape == (128,)
    assert np.linalg.norm(descriptor) == pytest.approx(1)


def test_the_same_place_is_similar_and_another_is_not():
    rng = np.random.default_rng(0)
    for seed in range(20):
        here = place(seed)
        again = np.clip(here + rng.normal(0, 6, here.shape), 0, 255).astype(np.uint8)
        again[20:40, 30:50] = (250, 30, 30)
        assert describe(here) @ describe(again) > 0.8
        assert describe(here) @ describe(place(seed + 100)) < 0.6


def test_colour_and_layout_both_count():
    here = place(5)
    mirrored = np.ascontiguousarray(here[:, ::-1])
    other_colours = np.ascontiguousarray(here[..., [1, 2, 0]])
    assert 0.3 < describe(here) @ describe(mirrored) < 0.8
    assert describe(here) @ describe(other_colours) < 0.8


def test_noise_on_a_flat_picture_is_no_layout():
    rng = np.random.default_rng(0)
    one, two = (plain() + rng.integers(0, 3, plain().shape, dtype=np.uint8) for _ in range(2))
    assert describe(one) @ describe(two) > 0.99
