"""Where the camera cuts, what is measured of each shot, and what one pass leaves for later stages."""

import dataclasses
import threading
import tracemalloc

import av
import cv2
import numpy as np
import pytest
from sample_material import context_of
from scenedetect import FrameTimecode
from scenedetect.detectors import ContentDetector
from video_material import moving, place, plain, video_of

from tempo.config import ShotsConfig
from tempo.core.records import Skipped
from tempo.video import clips
from tempo.video.decode import decode
from tempo.video.detectors import make_detector
from tempo.video.selection import choose_key_frames
from tempo.video.shots import (
    ShotCutter,
    choose_candidates,
    describe,
    find_shots,
    make_worker,
    measure_sharpness,
)


def bounds(found):
    return [(shot.start_frame, shot.end_frame) for shot in found]


def film(*lengths):
    return [image for seed, length in enumerate(lengths) for image in moving(seed, length)]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_known_cuts_are_found_to_the_frame(render, tmp_path, detector):
    worker = make_worker(context_of(tmp_path, shots={"detector": detector}))
    (result,) = worker([video_of(render(film(30, 20, 40, 25)), tmp_path)])
    assert bounds(result.shots) == [(0, 30), (30, 50), (50, 90), (90, 115)]
    assert [shot.start_seconds for shot in result.shots] == pytest.approx([0, 1.2, 2.0, 3.6])
    assert [shot.end_seconds for shot in result.shots] == pytest.approx([1.2, 2.0, 3.6, 4.6])
    assert (result.num_frames, result.duration_seconds) == (115, pytest.approx(4.6))


@pytest.mark.parametrize(
    ("lengths", "config", "expected"),
    [
        ((30, 30), {"threshold": 254.0}, [(0, 60)]),
        ((30, 30), {"threshold": 254.0, "detector": "adaptive"}, [(0, 60)]),
        # Cuts less than 0.6 seconds apart are merged.
        ((30, 16, 40), {}, [(0, 30), (30, 46), (46, 86)]),
        ((30, 11, 40), {}, [(0, 30), (30, 81)]),
        ((30, 11, 40), {"min_scene_seconds": 0.4}, [(0, 30), (30, 41), (41, 81)]),
        ((30, 11, 40), {"min_scene_seconds": 0.4, "detector": "adaptive"}, [(0, 30), (30, 41), (41, 81)]),
        # The shot filter.
        ((30, 20), {"min_frames": 21}, [(0, 30)]),
        ((30, 20), {"min_frames": 20}, [(0, 30), (30, 50)]),
        ((30, 20), {"min_seconds": 0.85}, [(0, 30)]),
        ((30, 20), {"min_grey_range": 255}, []),
    ],
)
def test_usable_shots_follow_the_options(render, lengths, config, expected):
    assert bounds(find_shots(render(film(*lengths)), ShotsConfig(**config))) == expected


@pytest.mark.parametrize("threshold", [3.0, 9.0, 27.0])
def test_cuts_are_those_of_the_library(threshold):
    """The score is computed in another way, because that is faster."""
    rng = np.random.default_rng(0)
    steps = [rng.normal(0, level, (64, 96, 3)) for level in rng.exponential(20, 200)]
    images = [np.clip(place(1) + step, 0, 255).astype(np.uint8) for step in steps]
    library = ContentDetector(threshold=threshold, min_scene_len=1)
    ours = make_detector(ShotsConfig(threshold=threshold, min_scene_seconds=0.001))
    for number, image in enumerate(images):
        expected = library.process_frame(FrameTimecode(number, fps=25.0), image[..., ::-1])
        assert ours.add(image, number / 25) == [cut.frame_num for cut in expected]


def test_uneven_times_give_frame_numbers_and_shots_can_be_found_without_a_run(render):
    path = render(film(30, 20), pts=[40 * i for i in range(30)] + [5000 + 90 * i for i in range(20)])
    found = find_shots(path)
    assert bounds(found) == [(0, 30), (30, 50)]
    assert found[1].start_seconds == pytest.approx(5.0)
    with pytest.raises(ValueError, match="no such file"):
        find_shots(path.with_name("gone.mp4"))


class Late:
    """A detector whose cuts become known some frames late, or at the end."""

    def __init__(self, cuts, delay):
        self.cuts, self.delay, self.num_frames = list(cuts), delay, 0

    def add(self, image, start_seconds):
        self.num_frames += 1
        known = [cut for cut in self.cuts if image is None or cut + self.delay < self.num_frames]
        self.cuts = self.cuts[len(known) :]
        return known


def test_shots_are_right_however_late_the_cut_is_found(render):
    path, found = render(film(10, 21, 14)), []
    for delay in (0, 1, 7, 99):
        cutter = ShotCutter(Late([10, 31], delay), ShotsConfig())
        for frame in decode(path):
            cutter.add(cutter.shrink(frame))
        found.append(cutter.finish())
    assert all(shots == found[0] for shots in found)
    assert bounds(found[0]) == [(0, 10), (10, 31), (31, 45)]
    assert [shot.end_seconds for shot in found[0]] == pytest.approx([0.4, 1.24, 1.8])


def test_time_stamps_lead_to_the_candidates_and_the_middle(render):
    path = render(film(30, 30), pts=[500 + 40 * i for i in range(60)], gop=12)
    for shot in find_shots(path):
        middle = (shot.start_frame + shot.end_frame) // 2
        assert shot.time_stamps.keys() == {*shot.candidates, middle}
    frames = {frame.index: frame.decoded for frame in decode(path)}
    for number, (pts, key_pts) in shot.time_stamps.items():
        assert pts == frames[number].pts
        assert key_pts == max(one.pts for one in frames.values() if one.key_frame and one.pts <= pts)


def test_memory_does_not_grow_with_the_length_of_a_shot(render):
    cutter = ShotCutter(Late([], 0), ShotsConfig())
    small = cutter.shrink(next(decode(render([place(0)]))))
    tracemalloc.start()
    peaks = []
    for count in (2200, 4400):
        for index in range(cutter.num_frames, count):
            start, end = index / 25, (index + 1) / 25
            cutter.add(dataclasses.replace(small, index=index, start_seconds=start, end_seconds=end))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    (shot,) = cutter.finish()
    assert (shot.num_frames, shot.grey_range > 100) == (4400, True)
    assert peaks[1] < peaks[0] + 500_000


def test_candidates_are_the_two_key_frames_and_the_sharpest_of_each_eighth():
    sharpness = [1.0] * 160
    for index in (6, 28, 54, 66, 88, 116, 122, 150):
        sharpness[index] = 2.0
    assert choose_candidates(sharpness) == [6, 28, 54, 66, 88, 116, 122, 150]
    # Each part of a shot has its own.
    assert [number for number in choose_candidates(sharpness, [30, 36]) if 30 <= number < 36] == [30]
    rng = np.random.default_rng(0)
    for length in (1, 2, 11, 40, 333):
        sharpness = rng.random(length).tolist()
        chosen = choose_candidates(sharpness)
        assert set(choose_key_frames(length, dict(enumerate(sharpness)))) <= set(chosen)
        assert len(chosen) <= 2 + 8


@pytest.mark.parametrize("stage", ["shots", "clips"])
def test_a_decoder_that_hangs_costs_one_video(render, tmp_path, monkeypatch, stage):
    """PyAV's container is made to hang at one file."""
    paths = [render(film(30, 30, 30, length), f"{length}.mp4") for length in (30, 20)]
    settings = context_of(tmp_path, videos={"paths": ["unused"], "timeout_seconds": 1.0})
    rows = [video_of(path, tmp_path) for path in paths]
    workers = {"shots": make_worker(settings), "clips": clips.make_worker(settings)}
    rows = workers["shots"](rows) if stage == "clips" else rows
    released, real_open = threading.Event(), av.open

    def open_slowly(name, *how, **options):
        if name == f"file:{paths[0]}":
            released.wait()
        return real_open(name, *how, **options)

    monkeypatch.setattr(av, "open", open_slowly)
    skipped, row = workers[stage](rows)
    released.set()
    assert (skipped.stage, skipped.reason) == (stage, "decoder hangs")
    assert "videos.timeout_seconds" in skipped.detail
    assert not isinstance(row, Skipped)


def test_a_blurred_image_is_less_sharp_and_a_plain_one_not_at_all():
    blurred = [cv2.GaussianBlur(place(1), (0, 0), sigma) for sigma in (0.1, 1, 2, 4)]
    sharpness = [measure_sharpness(image) for image in [*blurred, plain()]]
    assert sharpness == sorted(sharpness, reverse=True)
    assert sharpness[-1] == 0


def test_descriptors_are_similar_for_the_same_place_only():
    for image in (plain(), place(1)[:9, :5], plain()[:1, :1]):
        assert np.linalg.norm(describe(np.ascontiguousarray(image))) == pytest.approx(1)
    rng = np.random.default_rng(0)
    for seed in range(20):
        here = place(seed)
        again = np.clip(here + rng.normal(0, 6, here.shape), 0, 255).astype(np.uint8)
        again[20:40, 30:50] = (250, 30, 30)
        assert describe(here) @ describe(again) > 0.8
        assert describe(here) @ describe(place(seed + 100)) < 0.6
