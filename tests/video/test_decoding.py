import itertools
import logging
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from video_material import HEIGHT, WIDTH, moving, number_of, numbered, place, plain, rotate, spoil_packet

from tempo.engine.types import SkipRecord
from tempo.video.decoding import MAX_GAP_SECONDS, Header, _frames, _span, decode, read_header


def numbers(path):
    return [number_of(picture.scaled(8, 8)) for picture in decode(path)]


def test_every_frame_comes_once_in_order_with_its_time(render):
    path = render([numbered(i) for i in range(40)])
    pictures = list(decode(path))
    assert [number_of(picture.scaled(WIDTH, HEIGHT)) for picture in pictures] == list(range(40))
    assert [picture.index for picture in pictures] == list(range(40))
    assert [picture.start_seconds for picture in pictures] == pytest.approx([i / 25 for i in range(40)])
    assert pictures[-1].end_seconds == pytest.approx(40 / 25)


def test_uneven_times_are_kept(render):
    times = [0, 40, 80, 1000, 1040, 3000]
    path = render([numbered(i) for i in range(6)], pts=times)
    assert [picture.start_seconds for picture in decode(path)] == pytest.approx([t / 1000 for t in times])


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_time_starts_with_the_first_frame(render, name):
    path = render([numbered(i) for i in range(5)], name, pts=[5000 + 40 * i for i in range(5)])
    pictures = list(decode(path))
    assert pictures[0].frame.pts > 0
    assert [picture.start_seconds for picture in pictures] == pytest.approx([i / 25 for i in range(5)])


def test_a_stream_without_times_runs_at_its_rate(render):
    path = render([numbered(i) for i in range(4)], "bare.h264")
    starts = [picture.start_seconds for picture in decode(path)]
    steps = [late - early for early, late in itertools.pairwise(starts)]
    assert len(starts) == 4
    assert steps == pytest.approx([steps[0]] * 3)
    assert steps[0] > 0


def red_corner():
    picture = plain()
    picture[: HEIGHT // 2, : WIDTH // 2] = (255, 0, 0)
    return picture


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_rotation_is_applied(render, quarter_turns):
    path = render([red_corner()] * 2)
    rotate(path, quarter_turns)
    picture = next(decode(path))
    expected = np.rot90(red_corner(), quarter_turns)
    assert picture.size == expected.shape[1::-1]
    difference = np.abs(picture.scaled(*picture.size).astype(int) - expected)
    # Colour is stored at half size, so the edges of the corner are soft.
    assert np.median(difference) <= 3
    assert difference.mean() < 5


def test_scaling_averages_and_gives_the_size_that_is_asked(render):
    picture = next(decode(render([place(3)] * 2)))
    small = picture.scaled(6, 4)
    assert (small.shape, small.dtype, small.flags.c_contiguous) == ((4, 6, 3), np.uint8, True)
    assert np.abs(small.astype(int) - place(3)[8::16, 8::16]).mean() < 12
    assert picture.scaled(1, 1).shape == (1, 1, 3)


def test_pictures_that_are_kept_do_not_change(render):
    kept = list(decode(render([numbered(i) for i in range(20)])))
    first = kept[0].scaled(4, 4).copy()
    for picture in kept:
        picture.scaled(4, 4)
    assert np.array_equal(kept[0].scaled(4, 4), first)


def test_a_damaged_packet_is_skipped_and_logged(render, caplog):
    path = render([numbered(i) for i in range(30)], gop=5)
    spoil_packet(path, 12)
    with caplog.at_level(logging.WARNING):
        found = numbers(path)
    assert 27 <= len(found) < 30
    assert found[:5] == [0, 1, 2, 3, 4]
    assert found[-5:] == [25, 26, 27, 28, 29]
    assert "damaged packets skipped" in caplog.text


def test_a_damaged_file_decodes_the_same_every_time(render):
    path = render([place(i) for i in range(30)])
    spoil_packet(path, 12)
    first, second = ([picture.scaled(8, 8).tobytes() for picture in decode(path)] for _ in range(2))
    assert first == second


def test_what_is_painted_over_damage_depends_on_no_thread(render):
    """With several, flipped bits gave other pictures on every machine, and at times in every run."""
    path = render([picture for seed in (1, 2) for picture in moving(seed, 40)], gop=12)
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(data.index(b"mdat") + 40, data.index(b"moov") - 8, 6):
        data[at] ^= 4
    path.write_bytes(data)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        alone = [frame.to_ndarray(format="rgb24").tobytes() for frame in _frames(container, stream, [])]
    assert [picture.frame.to_ndarray(format="rgb24").tobytes() for picture in decode(path)] == alone


def test_a_cut_off_file_gives_what_is_there(render):
    path = render([numbered(i) for i in range(40)], "half.mkv", gop=5)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = numbers(path)
    assert 5 < len(found) < 40
    assert found == list(range(len(found)))


def test_a_stream_that_begins_half_way_ends_no_other():
    """PyAV raises at its packets, and reads on when it is asked again; flipped bits make such files."""
    read = iter([1, 2, None, 3, None, None, 4])

    def demux(stream):
        for number in read:
            if number is None:
                raise IndexError("list index out of range")
            yield SimpleNamespace(decode=lambda number=number: [number])

    errors = []
    assert list(_frames(SimpleNamespace(demux=demux), None, errors)) == [1, 2, 3, 4]
    assert errors == []


def test_a_file_of_which_nothing_decodes_is_dropped(render):
    path = render([plain()] * 3)
    for number in range(3):
        spoil_packet(path, number)
    with pytest.raises(SkipRecord) as caught:
        list(decode(path))
    assert caught.value.reason == "no frame decodes"
    assert "Invalid data" in caught.value.detail


def test_two_runs_through_a_file_do_not_disturb_each_other(render):
    path = render([numbered(i) for i in range(10)])
    pairs = zip(decode(path), decode(path), strict=True)
    assert [(a.index, number_of(b.scaled(4, 4))) for a, b in pairs] == [(i, i) for i in range(10)]


def test_the_claims_are_read_without_decoding(render):
    path = render([plain(width=80, height=48)] * 3, fps=10)
    for number in range(3):
        spoil_packet(path, number)
    assert read_header(path) == Header(pytest.approx(0.3), 80, 48, 10.0, "h264")


@pytest.mark.parametrize(
    ("pts", "duration", "expected"),
    [
        (100, 40, (0.1, 0.14)),
        (100, 0, (0.1, 0.3)),
        (None, 40, (0.08, 0.12)),
        (10, 40, (0.08, 0.12)),
        (40, 40, (0.04, 0.08)),
        (10**12, 40, (0.08, 0.12)),
        (100, 10**12, (0.1, 0.3)),
        (int(MAX_GAP_SECONDS) * 1000, 40, (MAX_GAP_SECONDS, MAX_GAP_SECONDS + 0.04)),
    ],
)
def test_impossible_times_are_replaced(pts, duration, expected):
    frame = SimpleNamespace(pts=pts, duration=duration, time_base=Fraction(1, 1000))
    assert _span(frame, 0, 0.04, 0.08, 0.2) == pytest.approx(expected)


def test_an_impossible_rate_is_replaced(render, monkeypatch):
    """Found by the fuzz test: a damaged AVI claimed a picture in many years, and sampling it took as long."""
    path = render([numbered(i) for i in range(3)], "bare.h264")
    monkeypatch.setattr("tempo.video.decoding._header", lambda *_: Header(0.0, 96, 64, 1e-12, "h264"))
    assert list(decode(path))[-1].end_seconds < 1
