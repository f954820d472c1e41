"""Frames, their times and sizes, from good and damaged files; single frames by their time stamps."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from video_material import CONTAINERS, moving, number_of, numbered, place, plain, rotate, spoil_packet

from tempo.engine.types import SkipRecord
from tempo.video.decode import Scaler, decode, decode_at, fit_size


def scaled(frame, size=(8, 8)):
    return Scaler().scale(frame.decoded, size)


def test_every_frame_comes_once_in_order_with_its_time(render):
    frames = list(decode(render([numbered(i) for i in range(40)])))
    assert [(frame.index, number_of(scaled(frame))) for frame in frames] == [(i, i) for i in range(40)]
    assert [frame.start_seconds for frame in frames] == pytest.approx([i / 25 for i in range(40)])
    assert frames[-1].end_seconds == pytest.approx(40 / 25)


@pytest.mark.parametrize("aspect", [1, 2])
@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_frames_are_rotated_and_get_square_pixels(render, quarter_turns, aspect):
    red_corner = plain()
    red_corner[:32, :48] = (255, 0, 0)
    path = render([red_corner] * 2, aspect=Fraction(aspect, 1))
    rotate(path, quarter_turns)
    frame = next(decode(path))
    expected = np.rot90(np.repeat(red_corner, aspect, axis=1), quarter_turns)
    assert frame.size == expected.shape[1::-1]
    image = scaled(frame, frame.size)
    assert image.shape == expected.shape
    difference = np.abs(image.astype(int) - expected)
    # The second pass, by time stamps or by counting, gives the same picture.
    for stamps in ((frame.decoded.pts, frame.decoded.pts), None):
        ((_, size, decoded),) = decode_at(path, {0: stamps})
        assert np.array_equal(Scaler().scale(decoded, size), image)
    # Colour is stored at half size, so the edges of the corner are soft.
    assert np.median(difference) <= 3
    assert difference.mean() < 5


def test_scaling_averages_frames_of_any_size(render):
    scaler = Scaler()
    for width, height in ((1, 1), (7680, 4320), (100, 1), (1, 100)):
        decoded = av.VideoFrame.from_ndarray(plain(width=width, height=height), format="rgb24")
        # Averaging very many pixels is exact to a few levels.
        assert np.abs(scaler.scale(decoded, (128, 72)).astype(int) - 90).max() <= 4
    decoded = av.VideoFrame.from_ndarray(place(3), format="rgb24")
    assert np.abs(scaler.scale(decoded, (6, 4)).astype(int) - place(3)[8::16, 8::16]).mean() < 12


def test_fitted_sizes_stay_within_their_limits():
    rng = np.random.default_rng(0)
    for width, height, max_pixels in rng.integers([1, 1, 64], [5000, 5000, 40000], (2000, 3)).tolist():
        fitted = fit_size(width, height, max_pixels=max_pixels)
        assert 1 <= fitted[0] <= width
        assert 1 <= fitted[1] <= height
        assert fitted[0] * fitted[1] <= max_pixels


def test_a_damaged_packet_is_skipped_and_logged(render, caplog):
    path = render([numbered(i) for i in range(30)], gop=5)
    spoil_packet(path, 12)
    with caplog.at_level(logging.WARNING):
        found = [number_of(scaled(frame)) for frame in decode(path)]
    assert 27 <= len(found) < 30
    assert found[:5] == [0, 1, 2, 3, 4]
    assert found[-5:] == [25, 26, 27, 28, 29]
    assert "damaged packets skipped" in caplog.text


def test_a_file_of_which_nothing_decodes_is_skipped(render):
    path = render([plain()] * 3)
    for number in range(3):
        spoil_packet(path, number)
    with pytest.raises(SkipRecord, match=r"no frame decodes: .*Invalid data"):
        list(decode(path))


def images_at(path, wanted):
    return {number: Scaler().scale(decoded, (9, 6)) for number, _, decoded in decode_at(path, wanted)}


def stamps_of(path):
    """What the first pass notes of each frame: its time stamp and that of the key frame before it."""
    stamps, key_pts = {}, None
    for frame in decode(path):
        key_pts = frame.decoded.pts if frame.decoded.key_frame else key_pts
        stamps[frame.index] = (frame.decoded.pts, key_pts)
    return stamps


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("wanted", [[0], [39], [3, 4, 5], [1, 13, 14, 37], range(40)])
def test_frames_are_found_by_their_time_stamps(render, name, codec, wanted):
    path = render([numbered(i) for i in range(40)], name, codec=codec, gop=7)
    stamps = stamps_of(path)
    found = images_at(path, {number: stamps[number] for number in wanted})
    whole_pass = {frame.index: scaled(frame, (9, 6)) for frame in decode(path)}
    assert list(found) == list(wanted)
    assert all(np.array_equal(image, whole_pass[number]) for number, image in found.items())
    # Neighbours differ, so a wrong frame would show.
    assert not np.array_equal(whole_pass[3], whole_pass[4])


def test_seeking_begins_at_the_key_frame_before(render):
    path = render([numbered(i % 40) for i in range(80)], gop=10)
    stamps = stamps_of(path)
    expected = images_at(path, {75: None})[75]
    key_frame = next(number for number, (pts, _) in stamps.items() if pts == stamps[75][1])
    # From the start, the file can no longer be decoded.
    for number in range(key_frame):
        spoil_packet(path, number)
    assert np.array_equal(images_at(path, {75: stamps[75]})[75], expected)


@pytest.mark.parametrize(
    "change", [lambda pts, key: None, lambda pts, key: (pts + 1, key), lambda pts, key: (10**9, 0)]
)
def test_frames_that_time_stamps_do_not_find_are_counted(render, change):
    path = render([numbered(i) for i in range(40)], gop=7)
    stamps = stamps_of(path)
    wanted = {5: stamps[5], 20: change(*stamps[20]), 30: stamps[30]}
    found = images_at(path, wanted)
    assert {number: number_of(image) for number, image in found.items()} == {5: 5, 20: 20, 30: 30}
    with pytest.raises(SkipRecord, match=r"frame not found: .* has no frame 42"):
        images_at(path, {**wanted, 42: (10**6, 0)})


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.ts"])
def test_frames_of_a_damaged_file_are_those_of_a_whole_pass(render, name):
    path = render([frame for seed in (1, 2) for frame in moving(seed, 40)], name, gop=12)
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(1).integers(len(data) // 4, 3 * len(data) // 4, 4):
        data[at] ^= 4
    path.write_bytes(data)
    stamps = stamps_of(path)
    by_stamps, counted = images_at(path, stamps), images_at(path, dict.fromkeys(stamps))
    assert by_stamps.keys() == counted.keys()
    others = [number for number in counted if not np.array_equal(by_stamps[number], counted[number])]
    # A decoder fills damaged parts from the frames before, which seeking skips: at most one group differs.
    # The encoder does not always write the same bytes, so the damage varies.
    assert len(others) <= 12


@pytest.mark.parametrize(("gap_seconds", "expected"), [(3000, 3000), (7200, 0.08)])
def test_a_time_stamp_after_a_gap_of_more_than_an_hour_is_ignored(render, gap_seconds, expected):
    path = render([numbered(i) for i in range(3)], "gap.mkv", pts=[0, 40, 1000 * gap_seconds])
    starts = [frame.start_seconds for frame in decode(path)]
    assert starts == pytest.approx([0, 0.04, expected], abs=0.03)
