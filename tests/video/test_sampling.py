import dataclasses

import numpy as np
import pytest
from video_material import number_of, numbered, place, plain

from tempo.config import FramesConfig
from tempo.video.decoding import decode
from tempo.video.frames import decode_jpegs
from tempo.video.sampling import Sampler, fit_size, sample_video, spread


def sample(path, **config):
    sampler = Sampler(FramesConfig(**config))
    for picture in decode(path):
        sampler.add(picture)
    jpegs, seconds, fps = sampler.finish()
    return [number_of(image) for image in decode_jpegs(jpegs)], seconds, fps


def test_frames_are_taken_in_the_middle_of_each_interval(render):
    path = render([numbered(i) for i in range(40)], fps=10)
    assert sample(path) == ([5, 15, 25, 35], [0.5, 1.5, 2.5, 3.5], 1.0)
    assert sample(path, fps=2)[:2] == ([2, 7, 12, 17, 22, 27, 32, 37], [0.25 + k / 2 for k in range(8)])


def test_an_interval_whose_middle_the_video_does_not_reach_gives_no_frame(render):
    assert sample(render([numbered(i) for i in range(15)], fps=10))[1] == [0.5]
    assert sample(render([numbered(i) for i in range(16)], fps=10))[1] == [0.5, 1.5]


def test_more_frames_than_the_video_has_repeat_the_one_that_is_shown(render):
    assert sample(render([numbered(i) for i in range(3)], fps=2), fps=4)[0] == [0, 0, 1, 1, 2, 2]


def test_a_frame_that_stands_long_is_taken_for_as_long_as_it_stands(render):
    path = render([numbered(i) for i in range(10)], pts=[0, 100, *range(3600, 3920, 40)])
    assert sample(path)[:2] == ([1, 1, 1, 1], [0.5, 1.5, 2.5, 3.5])


def test_a_very_short_video_gives_its_last_frame(render):
    assert sample(render([numbered(i) for i in range(4)], fps=10)) == ([3], [pytest.approx(0.3)], 1.0)


def test_a_late_start_does_not_shift_the_samples(render):
    path = render([numbered(i) for i in range(20)], "late.mkv", pts=[9000 + 100 * i for i in range(20)])
    assert sample(path)[:2] == ([5, 15], [0.5, 1.5])


def test_too_many_frames_are_spread_evenly_and_the_rate_says_so(render):
    path = render([numbered(i) for i in range(40)], fps=10)
    numbers, seconds, fps = sample(path, fps=4, max_frames=4)
    assert numbers == [6, 16, 26, 36]
    assert seconds == pytest.approx([0.625, 1.625, 2.625, 3.625])
    assert fps == pytest.approx(1.0)


def test_frames_are_made_small_and_stay_true(render):
    path = render([place(1)] * 30, fps=25)
    sampler = Sampler(FramesConfig(max_pixels=1536))
    for picture in decode(path):
        sampler.add(picture)
    (image,) = decode_jpegs(sampler.finish()[0])
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - place(1)[::2, ::2]).mean() < 10


def test_the_frames_of_a_video_that_changes_its_size_still_stack(render):
    small = list(decode(render([plain(width=48, height=32)] * 30, "small.mp4")))
    large = list(decode(render([plain(width=96, height=64)] * 30, "large.mp4")))
    sampler = Sampler(FramesConfig())
    for picture in small:
        sampler.add(picture)
    for picture in large:
        sampler.add(dataclasses.replace(picture, start_seconds=1.2 + picture.start_seconds, end_seconds=3))
    assert decode_jpegs(sampler.finish()[0]).shape == (3, 32, 48, 3)


@pytest.mark.parametrize(
    ("num_seconds", "expected"), [(1, (64, 96)), (4, (32, 48)), (9, (21, 31)), (30, (16, 24))]
)
def test_the_more_frames_a_video_has_the_smaller_they_are(render, num_seconds, expected):
    path = render([place(1)] * (2 * num_seconds), fps=2)
    jpegs = sample_video(path, FramesConfig(max_total_pixels=6144, max_frames=16)).frames
    images = decode_jpegs(jpegs)
    assert len(images) == min(num_seconds, 16)
    assert images[0].shape[:2] == expected
    assert len(images) * expected[0] * expected[1] <= 6144
    rows, columns = np.linspace(0, 63, expected[0]).astype(int), np.linspace(0, 95, expected[1]).astype(int)
    for image in images:
        assert np.abs(image.astype(int) - place(1)[rows][:, columns]).mean() < 25


def test_a_budget_that_does_not_bite_changes_nothing(render):
    path = render([place(1)] * 8, fps=2)
    budget = FramesConfig(max_pixels=1536, max_frames=40, max_total_pixels=4 * 1536)
    assert sample_video(path, budget) == sample_video(path, FramesConfig(max_pixels=1536))


@pytest.mark.parametrize("total", [0, 64 * 600 - 1, 16384 * 600])
def test_a_budget_that_cannot_be_or_does_nothing_is_refused(total):
    with pytest.raises(ValueError, match=f"max_total_pixels {total} must be at least 38400"):
        FramesConfig(max_total_pixels=total)


@pytest.mark.parametrize(
    ("width", "height", "max_pixels", "expected"),
    [
        (100, 50, 5000, (100, 50)),
        (100, 50, 99999, (100, 50)),
        (1280, 720, 128 * 128, (170, 96)),
        (200, 200, 10000, (100, 100)),
        (1, 1, 64, (1, 1)),
        (10_000, 1, 64, (64, 1)),
        (1, 10_000, 64, (1, 64)),
    ],
)
def test_a_size_is_fitted(width, height, max_pixels, expected):
    assert fit_size(width, height, max_pixels=max_pixels) == expected


def test_fitted_sizes_never_break_their_promise():
    rng = np.random.default_rng(0)
    for width, height, max_pixels in rng.integers([1, 1, 64], [5000, 5000, 40000], (2000, 3)).tolist():
        fitted = fit_size(width, height, max_pixels=max_pixels)
        assert 1 <= fitted[0] <= width
        assert 1 <= fitted[1] <= height
        assert fitted[0] * fitted[1] <= max_pixels


@pytest.mark.parametrize(
    ("count", "at_most", "expected"),
    [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (10, 2, [2, 7]), (5, 2, [1, 3]), (9, 3, [1, 4, 7])],
)
def test_indices_are_spread(count, at_most, expected):
    assert spread(count, at_most) == expected


class Still:
    """A picture that tells its second, without a decoder."""

    size = (8, 8)

    def __init__(self, second):
        self.start_seconds, self.end_seconds = float(second), second + 1.0

    def scaled(self, width, height):
        return numbered(int(self.start_seconds) % 40)[:height, :width]


def stills(count, max_frames):
    sampler = Sampler(FramesConfig(max_frames=max_frames))
    most = 0
    for second in range(count):
        sampler.add(Still(second))
        most = max(most, len(sampler._jpegs))
    return sampler.finish(), most


@pytest.mark.parametrize("count", [3, 40, 41, 160, 500, 5000])
def test_however_long_a_video_is_a_bounded_number_of_pictures_is_held(count):
    (jpegs, seconds, fps), most = stills(count, max_frames=10)
    assert most <= 4 * 10 + 1
    exact = spread(count, 10)
    # Beyond four times max_frames a picture is taken next to the evenly spread one, at most a part earlier.
    tolerance = 0 if count <= 40 else count / 20
    assert all(0 <= number + 0.5 - time <= tolerance for number, time in zip(exact, seconds, strict=True))
    assert fps == pytest.approx(min(count, 10) / count)
    shown = [number_of(image) for image in decode_jpegs(jpegs)]
    assert shown == [int(time) % 40 for time in seconds]
