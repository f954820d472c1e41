import json
import threading

import numpy as np
import pytest
from scenedetect import FrameTimecode
from scenedetect.detectors import ContentDetector
from video_material import context, moving, number_of, numbered, place, plain, rotate, spoil_packet, video_of

from tempo.config import ShotsConfig
from tempo.core.records import Shots, Skipped
from tempo.video.decoding import decode
from tempo.video.detectors import make_detector
from tempo.video.detectors.scene_detect import MIN_SCENE_SECONDS
from tempo.video.frames import FrameStore, decode_jpegs
from tempo.video.key_frames import choose_key_frames
from tempo.video.pictures import measure_sharpness
from tempo.video.shots import make_worker
from tempo.video.survey import ShotCutter, survey


def find(path, directory, **sections):
    return make_worker(context(directory, **sections))([video_of(path, directory)])[0]


def bounds(result):
    return [(shot.start_frame, shot.end_frame) for shot in result.shots]


def film(*lengths):
    return [picture for seed, length in enumerate(lengths) for picture in moving(seed, length)]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_known_cuts_are_found_to_the_frame(render, tmp_path, detector):
    path = render(film(30, 20, 40, 25))
    result = find(path, tmp_path, shots={"detector": detector})
    assert isinstance(result, Shots)
    assert bounds(result) == [(0, 30), (30, 50), (50, 90), (90, 115)]
    assert [shot.start_seconds for shot in result.shots] == pytest.approx([0, 1.2, 2.0, 3.6])
    assert [shot.end_seconds for shot in result.shots] == pytest.approx([1.2, 2.0, 3.6, 4.6])
    assert (result.num_frames, result.duration_seconds) == (115, pytest.approx(4.6))


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_the_threshold_is_used(render, tmp_path, detector):
    path = render(film(30, 30))
    assert len(find(path, tmp_path, shots={"detector": detector, "threshold": 254.0}).shots) == 1


def test_one_shot_is_the_whole_video(render, tmp_path):
    assert bounds(find(render(film(40)), tmp_path)) == [(0, 40)]


def test_a_flash_is_no_cut(render, tmp_path):
    pictures = moving(0, 60)
    for index in (30, 31):
        pictures[index] = plain(colour=(255, 255, 255))
    lengths = [shot.num_frames for shot in find(render(pictures), tmp_path).shots]
    assert len(lengths) <= 2


def test_cuts_less_than_six_tenths_of_a_second_apart_are_one(render, tmp_path):
    path = render([*moving(0, 30), *moving(1, 11), *moving(2, 40)])
    assert len(find(path, tmp_path).shots) == 2
    path = render([*moving(0, 30), *moving(1, 16), *moving(2, 40)])
    assert bounds(find(path, tmp_path)) == [(0, 30), (30, 46), (46, 86)]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_how_close_cuts_may_be_is_configured(render, tmp_path, detector):
    path = render([*moving(0, 30), *moving(1, 11), *moving(2, 40)])
    config = {"detector": detector, "min_scene_seconds": 0.4}
    assert bounds(find(path, tmp_path, shots=config)) == [(0, 30), (30, 41), (41, 81)]


def test_shots_of_a_slow_video_are_not_merged(render, tmp_path):
    path = render(film(9, 9, 9), fps=10)
    assert bounds(find(path, tmp_path)) == [(0, 9), (9, 18), (18, 27)]


def test_cuts_of_a_video_with_uneven_times_are_frame_numbers(render, tmp_path):
    pts = [40 * i for i in range(30)] + [5000 + 90 * i for i in range(30)]
    result = find(render(film(30, 30), pts=pts), tmp_path)
    assert bounds(result) == [(0, 30), (30, 60)]
    assert result.shots[1].start_seconds == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [(0, 30), (30, 50)]),
        ({"min_frames": 21}, [(0, 30)]),
        ({"min_frames": 20}, [(0, 30), (30, 50)]),
        ({"min_seconds": 0.85}, [(0, 30)]),
        ({"min_grey_range": 255}, []),
    ],
)
def test_the_shot_filter_drops_what_is_short(render, tmp_path, config, expected):
    result = find(render(film(30, 20)), tmp_path, shots=config)
    assert bounds(result) == expected
    taken_out = {(0, 30), (30, 50)} - set(expected)
    assert {(shot.start_frame, shot.end_frame) for shot in result.rejected} == taken_out
    assert all(
        f"{key} is {limit}" in shot.reason for key, limit in config.items() for shot in result.rejected
    )


def test_the_shot_filter_drops_what_is_flat_and_only_that(render, tmp_path):
    path = render([*moving(0, 30), *[plain(colour=(0, 0, 0))] * 30, *moving(1, 30)])
    result = find(path, tmp_path)
    assert bounds(result) == [(0, 30), (60, 90)]
    assert result.num_frames == 90


def test_the_grey_range_is_of_the_middle_frame(render, tmp_path):
    pictures = [plain(colour=(100, 100, 100)).copy() for _ in range(31)]
    pictures[15][20:40, 30:60] = 160
    (shot,) = find(render(pictures, gop=1), tmp_path, shots={"threshold": 250}).shots
    assert shot.grey_range == pytest.approx(60, abs=5)


def test_shots_of_one_place_are_alike_and_others_are_not(render, tmp_path):
    path = render([*moving(0, 30), *moving(1, 30), *moving(0, 30), *moving(2, 30)])
    rows = np.array([shot.descriptor for shot in find(path, tmp_path).shots])
    cosine = rows @ rows.T
    assert cosine[0, 2] > 0.9
    assert max(cosine[0, 1], cosine[0, 3], cosine[1, 3]) < 0.6


def test_sharpness_is_given_for_each_candidate(render, tmp_path):
    sharp, dull = place(0), place(0) // 2
    (shot,) = find(render([sharp, dull, sharp, dull] * 5, gop=1), tmp_path, shots={"threshold": 250}).shots
    assert len(shot.sharpness) == len(shot.candidates) >= 2
    assert all(number % 2 == 0 for number in shot.candidates)
    assert min(shot.sharpness) > 10
    assert all(round(value, 4) == value for value in shot.sharpness)


def test_a_row_does_not_grow_with_the_frames_of_a_shot(render, tmp_path):
    short, long = (find(render(film(length), f"{length}.mp4"), tmp_path) for length in (40, 320))
    assert len(long.model_dump_json()) < len(short.model_dump_json()) + 10 * 20


def test_the_pass_fills_the_frame_store(render, tmp_path):
    path = render([numbered(i) for i in range(40)], fps=10)
    result = find(path, tmp_path, frames={"fps": 1.0, "max_pixels": 600})
    frames, seconds, _ = FrameStore(tmp_path / "frames").read(result.id)
    assert [number_of(frame) for frame in frames] == [5, 15, 25, 35]
    assert seconds.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert frames.shape[1] * frames.shape[2] <= 600


def test_a_row_can_be_written_as_json_and_comes_out_the_same_again(render, tmp_path):
    path = render(film(30, 20))
    first, second = find(path, tmp_path / "a"), find(path, tmp_path / "b")
    assert first.model_dump_json() == second.model_dump_json()
    assert Shots.model_validate_json(first.model_dump_json()) == first
    assert len(json.loads(first.model_dump_json())["shots"][0]["descriptor"]) == 128
    frames = [FrameStore(tmp_path / name / "frames").path(first.id).read_bytes() for name in "ab"]
    assert frames[0] == frames[1]


def test_a_video_that_lost_pictures_is_used_as_far_as_it_decodes(render, tmp_path):
    path = render(film(30, 30), gop=6)
    spoil_packet(path, 20)
    result = find(path, tmp_path)
    assert isinstance(result, Shots)
    assert 55 <= result.num_frames < 60
    assert len(result.shots) == 2


def test_a_rotated_video_is_analysed_as_shown(render, tmp_path):
    path = render(film(30, 30))
    rotate(path, 1)
    result = find(path, tmp_path)
    assert len(result.shots) == 2
    assert FrameStore(tmp_path / "frames").read(result.id)[0].shape[1:] == (96, 64, 3)


@pytest.mark.parametrize("size", [(4, 4), (16, 2), (640, 360)])
def test_small_and_large_pictures_pass(render, tmp_path, size):
    pictures = [np.ascontiguousarray(np.resize(picture, (size[1], size[0], 3))) for picture in film(12)]
    assert find(render(pictures), tmp_path).num_frames == 12


def test_a_file_that_changed_or_went_is_dropped(render, tmp_path):
    path = render(film(12))
    video = video_of(path, tmp_path)
    worker = make_worker(context(tmp_path))
    path.write_bytes(path.read_bytes() + b"x")
    changed = worker([video])[0]
    path.unlink()
    gone = worker([video])[0]
    assert [(type(row), row.stage, row.reason) for row in (changed, gone)] == [
        (Skipped, "shots", "file changed"),
        (Skipped, "shots", "no such file"),
    ]
    assert changed.id == video.id


def test_a_file_of_which_nothing_decodes_is_dropped(render, tmp_path):
    path = render(film(3))
    for number in range(3):
        spoil_packet(path, number)
    (drop,) = make_worker(context(tmp_path))([video_of(path, tmp_path)])
    assert (drop.stage, drop.reason) == ("shots", "cannot be decoded")
    assert drop.detail.startswith("no frame decodes")
    assert not (tmp_path / "frames").exists()


class Late:
    """A detector that tells its cuts some frames late, and what is left at the end."""

    def __init__(self, cuts, delay):
        self.cuts, self.delay, self.seen = list(cuts), delay, 0

    def add(self, image, start_seconds):
        self.seen += 1
        told = [cut for cut in self.cuts if cut + self.delay < self.seen]
        self.cuts = self.cuts[len(told) :]
        return told

    def finish(self):
        return self.cuts


def cut(path, detector, **sections):
    """Shots, their album, and how many pictures waited at most."""
    cutter = ShotCutter(detector, context(None, **sections).config)
    most = 0
    for picture in decode(path):
        cutter.add(picture)
        most = max(most, len(cutter._waiting))
    return cutter.finish(picture.end_seconds), cutter.album, most


def striped(num_frames):
    """Pictures that tell their number and are no flat ones."""
    pictures = [numbered(index) for index in range(num_frames)]
    for picture in pictures:
        picture[::8, :40] = 255
    return pictures


@pytest.mark.parametrize("delay", [0, 1, 7, 99])
def test_shots_and_middles_are_right_however_late_the_cut_is_told(render, delay):
    sections = {"features": "named", "min_shots": 3}
    shots, album, _ = cut(render(striped(45)), Late([10, 31], delay), clips=sections)
    looks = album.looks(shots)
    assert [(shot.start_frame, shot.end_frame) for shot in shots] == [(0, 10), (10, 31), (31, 45)]
    assert [shot.end_seconds for shot in shots] == pytest.approx([0.4, 1.24, 1.8])
    middles = [number_of(image[:, 50:]) for image in decode_jpegs(looks.middles)]
    assert middles == [5, 20, 38]
    candidates = looks.candidates
    assert [number_of(image[:, 50:]) for image in decode_jpegs(list(candidates.values()))] == list(candidates)
    assert list(candidates) == [number for shot in shots for number in shot.candidates]


@pytest.mark.parametrize("room", [64 << 20, 400_000, 100_000, 1])
def test_no_shot_is_lost_and_pictures_are_exact_however_little_fits(render, tmp_path, monkeypatch, room):
    """Stored at full size, with a detector that is 40 frames late."""
    path = render(striped(45))
    starts = [0, 8, 16, 24, 33]
    monkeypatch.setattr("tempo.video.survey.make_detector", lambda _: Late(starts[1:], 40))
    monkeypatch.setattr("tempo.video.waiting.HELD_BYTES", room)
    config = context(tmp_path, frames={"max_pixels": 96 * 64}, clips={"features": "named"}).config
    found = survey(str(path), config)
    assert [shot.start_frame for shot in found.shots] == starts
    monkeypatch.undo()
    monkeypatch.setattr("tempo.video.survey.make_detector", lambda _: Late(starts[1:], 0))
    at_once = survey(str(path), config)
    assert (found.shots, found.looks) == (at_once.shots, at_once.looks)
    numbers = [number_of(image[:, 50:]) for image in decode_jpegs(list(found.looks.candidates.values()))]
    assert numbers == list(found.looks.candidates)


def test_only_the_open_shot_is_kept_in_memory(render):
    _, _, most = cut(render(striped(39)), Late([10, 20, 30], 2))
    assert most <= 13


def test_a_shot_with_the_key_frames_of_a_rule_has_them_among_its_candidates(render):
    path = render([place(seed) for seed in range(40)])
    (shot,), _, _ = cut(path, Late([], 0))
    sharpness = dict(
        enumerate(round(measure_sharpness(picture.scaled(96, 64)), 4) for picture in decode(path))
    )
    key_frames = choose_key_frames(40, sharpness)
    # Made small by other means, so values differ by a little; the places are far apart.
    assert set(key_frames) <= set(shot.candidates)
    assert len(shot.candidates) <= 2 + 8


@pytest.mark.parametrize(("threshold", "width"), [(27.0, 96), (6.0, 96), (6.0, 91)])
def test_the_content_detector_is_that_of_the_library(threshold, width):
    """Cuts alone, in a row, a flash, noise that grows and falls; uneven times, and rows of any length."""
    rng = np.random.default_rng(0)
    level = np.concatenate([np.zeros(40), np.linspace(0, 40, 60), np.linspace(40, 0, 60)])
    seeds = (0,) * 30 + (1,) * 25 + (2, 3) * 6 + (4,) * 40 + (5,) + (4,) * 52
    pictures = [place(seed)[:, :width] for seed in seeds]
    noisy = [
        np.clip(picture + rng.normal(0, 1 + size, picture.shape), 0, 255).astype(np.uint8)
        for picture, size in zip(pictures, level, strict=True)
    ]
    ours = make_detector(ShotsConfig(threshold=threshold))
    theirs = ContentDetector(threshold=threshold, min_scene_len=round(MIN_SCENE_SECONDS * 1e6))
    now, found, expected = 0, [], []
    for picture in noisy:
        now += int(rng.integers(10_000, 90_000))
        found += [(now, cut) for cut in ours.add(picture, now / 1e6)]
        timecode = FrameTimecode(now, fps=1e6)
        expected += [
            (now, cut.frame_num) for cut in theirs.process_frame(timecode, picture[..., ::-1].copy())
        ]
    assert [(at, ours._starts_microseconds[number]) for at, number in found] == expected
    assert len(expected) >= 2


def test_detectors_do_not_share_state_between_videos():
    first, second = make_detector(ShotsConfig()), make_detector(ShotsConfig())
    for index in range(20):
        assert first.add(place(0), index / 25) == []
        assert second.add(place(1), index / 25) == []


def test_a_file_that_is_written_to_while_it_is_read_is_dropped(render, tmp_path, monkeypatch):
    path = render(film(30))
    video = video_of(path, tmp_path)

    def grows(path, config):
        found = survey(path, config)
        with open(path, "ab") as file:
            file.write(b"x")
        return found

    monkeypatch.setattr("tempo.video.shots.survey", grows)
    drop = make_worker(context(tmp_path))([video])[0]
    assert (drop.stage, drop.reason) == ("shots", "file changed")
    assert not (tmp_path / "frames").exists()


def test_a_decoder_that_hangs_costs_one_video(render, tmp_path, monkeypatch):
    path = render(film(30))
    video, good = video_of(path, tmp_path), video_of(render(film(20), "good.mp4"), tmp_path)
    released = threading.Event()

    def hangs(name):
        for picture in decode(name):
            if name == str(path) and picture.index == 5:
                released.wait()
            yield picture

    monkeypatch.setattr("tempo.video.survey.decode", hangs)
    worker = make_worker(context(tmp_path, videos={"paths": ["unused"], "timeout_seconds": 1.0}))
    drop, row = worker([video, good])
    released.set()
    assert (drop.stage, drop.reason) == ("shots", "decoder hangs")
    assert "videos.timeout_seconds" in drop.detail
    assert isinstance(row, Shots)
