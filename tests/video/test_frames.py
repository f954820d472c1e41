"""Frames at an even rate from a video, and the store that keeps them."""

import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from video_material import number_of, numbered, place, plain

from tempo.config import FramesConfig
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, decode
from tempo.video.frames import (
    FrameStore,
    Sampler,
    decode_jpegs,
    encode_jpeg,
    read_frames,
    sample_frames,
    sample_video,
)


def sample(path, **config):
    frames = sample_video(path, FramesConfig(**config))
    return [number_of(image) for image in frames.images], frames.seconds.tolist(), frames.fps


@pytest.mark.parametrize(
    ("num_frames", "fps", "config", "expected"),
    [
        (40, 10, {}, ([5, 15, 25, 35], [0.5, 1.5, 2.5, 3.5], 1.0)),
        (20, 10, {"fps": 2}, ([2, 7, 12, 17], [0.25, 0.75, 1.25, 1.75], 2.0)),
        # The second interval's middle is not reached.
        (15, 10, {}, ([5], [0.5], 1.0)),
        (3, 2, {"fps": 4}, ([0, 0, 1, 1, 2, 2], [0.125, 0.375, 0.625, 0.875, 1.125, 1.375], 4.0)),
        (4, 10, {}, ([3], [pytest.approx(0.3)], 1.0)),
        (40, 10, {"fps": 4, "max_frames": 4}, ([6, 16, 26, 36], [0.625, 1.625, 2.625, 3.625], 1.0)),
    ],
)
def test_frames_are_taken_in_the_middle_of_each_interval(render, num_frames, fps, config, expected):
    assert sample(render([numbered(i) for i in range(num_frames)], fps=fps), **config) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 100, *range(3600, 3920, 40)], ([1, 1, 1, 1], [0.5, 1.5, 2.5, 3.5])),
        ([9000 + 100 * i for i in range(20)], ([5, 15], [0.5, 1.5])),
    ],
)
def test_uneven_times_and_a_late_start_are_respected(render, times, expected):
    path = render([numbered(i) for i in range(len(times))], "times.mkv", pts=times)
    assert sample(path)[:2] == expected


@pytest.mark.parametrize(
    ("start", "end", "config", "expected"),
    [
        (1.0, 3.0, {}, ([15, 25], [0.5, 1.5])),
        (1.25, 3.25, {"fps": 2}, ([15, 20, 25, 30], [0.25, 0.75, 1.25, 1.75])),
        (0.0, 4.0, {"fps": 2, "max_frames": 2}, ([12, 32], [1.25, 3.25])),
        # The file ends before the part does.
        (2.0, 99.0, {}, ([25, 35], [0.5, 1.5])),
        (1.5, 1.52, {}, ([15], [0.0])),
    ],
)
def test_only_frames_of_the_wanted_part_are_taken(render, start, end, config, expected):
    path = render([numbered(i) for i in range(40)], fps=10)
    frames = sample_frames(decode(path), FramesConfig(**config), start_seconds=start, end_seconds=end)
    assert ([number_of(image) for image in frames.images], frames.seconds.tolist()) == expected
    with pytest.raises(SkipRecord, match="no frame in this part: 4 to 9 of 4 seconds"):
        sample_frames(decode(path), FramesConfig(), start_seconds=4.0, end_seconds=9.0)


@pytest.mark.parametrize(
    ("num_seconds", "expected"), [(1, (64, 96)), (4, (32, 48)), (9, (21, 31)), (30, (16, 24))]
)
def test_the_more_frames_a_video_has_the_smaller_they_are(render, num_seconds, expected):
    path = render([place(1)] * (2 * num_seconds), fps=2)
    images = sample_video(path, FramesConfig(max_total_pixels=6144, max_frames=16)).images
    assert len(images) == min(num_seconds, 16)
    assert images[0].shape[:2] == expected
    assert len(images) * expected[0] * expected[1] <= 6144


def sampled_stills(count, max_frames, size=lambda second: (8, 8)):
    """What a Sampler takes of frames that show their second, and the peak of memory in bytes."""
    sampler = Sampler(FramesConfig(max_frames=max_frames))
    tracemalloc.start()
    for second in range(count):
        width, height = size(second)
        image = plain(colour=(20 + 5 * (second % 40),) * 3, width=width, height=height)
        decoded = av.VideoFrame.from_ndarray(image, format="rgb24")
        sampler.add(Frame(second, float(second), second + 1.0, (width, height), decoded))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sampler.finish(), peak


@pytest.mark.parametrize("count", [3, 40, 41, 160, 500, 5000])
def test_however_long_a_video_is_a_bounded_number_of_frames_is_held(count):
    sampled, peak_bytes = sampled_stills(count, max_frames=10)
    # A JPEG of this size has 700 bytes.
    assert peak_bytes < 200_000
    num_kept = min(count, 10)
    exact = [(2 * part + 1) * count // (2 * num_kept) for part in range(num_kept)]
    # Beyond four times max_frames a frame next to the evenly spread one is taken, at most a part earlier.
    tolerance = 0 if count <= 40 else count / 20
    assert all(
        0 <= number + 0.5 - time <= tolerance for number, time in zip(exact, sampled.seconds, strict=True)
    )
    assert sampled.fps == pytest.approx(num_kept / count)
    shown = [number_of(image) for image in sampled.images]
    assert shown == [int(time) % 40 for time in sampled.seconds]


def test_the_frames_of_a_video_that_changes_its_size_still_stack():
    sampled, _ = sampled_stills(4, 10, size=lambda second: (48, 32) if second < 2 else (96, 64))
    assert sampled.images.shape == (4, 32, 48, 3)


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (1010, 10)])
def test_a_frame_too_thin_for_any_model_is_skipped(size):
    with pytest.raises(SkipRecord, match=rf"frame too thin: {size[0]} x {size[1]} pixels"):
        sampled_stills(1, 10, size=lambda _: size)


def test_frames_can_be_read_without_a_run_and_have_square_pixels(render):
    path = render([numbered(i) for i in range(40)], fps=10, aspect=Fraction(2, 1))
    frames = read_frames(path, fps=2.0, max_frames=4, max_pixels=96 * 64)
    assert frames.seconds.tolist() == [0.75, 1.75, 2.75, 3.75]
    assert (frames.fps, frames.images.shape, frames.images.dtype) == (1.0, (4, 45, 135, 3), np.uint8)


def jpegs(numbers):
    return [encode_jpeg(numbered(number), 95) for number in numbers]


def test_frames_are_read_as_written_and_key_frames_are_replaced(tmp_path):
    store, other = FrameStore(tmp_path / "run" / "frames"), FrameStore(tmp_path / "other")
    assert not store.has("a")
    for each in (store, other):
        each.write("a", jpegs([1, 2, 3]), seconds=[0.5, 1.5, 2.5], fps=0.25)
        for wanted in ([5, 6, 7, 8], [9]):
            each.write_key_frames("a", jpegs(wanted))
            assert [number_of(image) for image in each.read_key_frames("a")] == wanted
    frames = store.read("a")
    assert (frames.images.dtype, frames.images.shape, frames.fps) == (np.uint8, (3, 64, 96, 3), 0.25)
    assert [number_of(image) for image in frames.images] == [1, 2, 3]
    assert frames.seconds.tolist() == [0.5, 1.5, 2.5]
    assert [path.name for path in store.directory.rglob("*") if path.is_file()] == ["a.safetensors"]
    assert store.path("a").read_bytes() == other.path("a").read_bytes()


def test_a_jpeg_keeps_colours_apart_that_lie_side_by_side():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 40, 40), (40, 40, 200)
    (image,) = decode_jpegs([encode_jpeg(stripes, 95)])
    assert np.abs(image.astype(int) - stripes).mean() < 12
