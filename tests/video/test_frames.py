import os

import numpy as np
import pytest
from video_material import number_of, numbered, place

from tempo.video.frames import FrameStore, Looks, decode_jpegs, encode_jpeg


def jpegs(numbers):
    return [encode_jpeg(numbered(number), 95) for number in numbers]


def numbers(images):
    return [number_of(image) for image in images]


@pytest.fixture
def store(tmp_path):
    return FrameStore(tmp_path / "run" / "frames")


def test_what_is_written_is_read(store):
    store.write("a", jpegs([1, 2, 3]), seconds=[0.5, 1.5, 2.5], fps=1.0, key_frames=jpegs([7, 8]))
    frames, seconds, _ = store.read("a")
    assert (frames.dtype, frames.shape) == (np.uint8, (3, 64, 96, 3))
    assert numbers(frames) == [1, 2, 3]
    assert seconds.tolist() == [0.5, 1.5, 2.5]
    assert numbers(store.read_key_frames("a")) == [7, 8]
    assert store.read("a").fps == 1.0


def test_key_frames_are_added_and_replaced_and_the_frames_stay(store):
    store.write("a", jpegs([1, 2]), seconds=[0.5, 1.5], fps=0.25)
    before = store.read("a")[0]
    for wanted in ([5, 6, 7, 8], [9]):
        store.write_key_frames("a", jpegs(wanted))
        assert numbers(store.read_key_frames("a")) == wanted
        assert np.array_equal(store.read("a")[0], before)
        assert store.read("a")[1].tolist() == [0.5, 1.5]
        assert store.read("a").fps == 0.25


def test_key_frames_that_were_not_chosen_yet_are_missed_by_name(store):
    store.write("a", jpegs([1]), seconds=[0.5], fps=1.0)
    with pytest.raises(ValueError, match=r"a\.safetensors holds no key frames"):
        store.read_key_frames("a")


def test_a_video_without_frames_is_missed_by_name(store):
    with pytest.raises(FileNotFoundError, match=r"nobody\.safetensors"):
        store.read("nobody")


def test_equal_input_gives_equal_bytes(store, tmp_path):
    other = FrameStore(tmp_path / "other")
    for each in (store, other):
        each.write("a", jpegs([1, 2]), seconds=[0.5, 1.5], fps=1.0)
        os.utime(each.path("a"), (0, 0))
        each.write_key_frames("a", jpegs([4, 5]))
    assert store.path("a").read_bytes() == other.path("a").read_bytes()


def test_nothing_but_the_file_is_left_behind(store):
    store.write("a", jpegs([1]), seconds=[0.5], fps=1.0)
    store.write_key_frames("a", jpegs([1, 2]))
    assert [path.name for path in store.directory.iterdir()] == ["a.safetensors"]


def test_a_write_that_is_killed_leaves_the_old_file(store, monkeypatch):
    store.write("a", jpegs([1]), seconds=[0.5], fps=1.0)

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write("a", jpegs([2]), seconds=[0.5], fps=1.0)
    assert numbers(store.read("a")[0]) == [1]


def test_a_jpeg_keeps_colours_apart_that_lie_side_by_side():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 40, 40), (40, 40, 200)
    (image,) = decode_jpegs([encode_jpeg(stripes, 95)])
    assert np.abs(image.astype(int) - stripes).mean() < 12


def test_quality_matters():
    assert len(encode_jpeg(place(1), 30)) < len(encode_jpeg(place(1), 95))


def test_frames_and_times_must_match(store):
    with pytest.raises(AssertionError):
        store.write("a", jpegs([1, 2]), seconds=[0.5], fps=1.0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_looks_that_a_power_cut_tore_are_none(tmp_path, share):
    store = FrameStore(tmp_path)
    store.write_looks("v", Looks({3: b"three", 9: b"nine"}, [b"middle"]))
    assert store.read_looks("v") == Looks({3: b"three", 9: b"nine"}, [b"middle"])
    path = tmp_path / "looks" / "v.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert store.read_looks("v") is None
