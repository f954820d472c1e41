import numpy as np
import pytest

from tempo.video import waiting
from tempo.video.waiting import Held, Waiting, choose_candidates

THUMBNAIL_BYTES = 64 * 36 * 3


class Fake:
    """A grey picture of a size that is claimed."""

    def __init__(self, num_bytes=100_000):
        self.num_bytes = num_bytes

    def scaled(self, width, height):
        return np.full((height, width, 3), 9, np.uint8)


def filled(sharpness, monkeypatch, *, room, source=None):
    """As many waiting pictures, in so many bytes, the last four of them recent."""
    monkeypatch.setattr(waiting, "HELD_BYTES", room)
    monkeypatch.setattr(waiting, "NUM_RECENT", 4)
    pictures = Waiting()
    for index, value in enumerate(sharpness):
        pictures.add(Held(index, value, source or Fake()))
        assert pictures._num_bytes == sum(one.num_bytes for one in pictures._held)
        assert pictures._num_bytes <= room or len(pictures) <= 4
    return pictures


def test_nothing_is_lost_while_there_is_room(monkeypatch):
    pictures = filled(range(100), monkeypatch, room=100 * 100_000)
    assert [one.index for one in pictures.take(60)] == list(range(60))
    assert [(one.index, one.is_whole) for one in pictures.take(100)] == [(i, True) for i in range(60, 100)]


def test_the_oldest_become_thumbnails_of_which_all_is_known(monkeypatch):
    pictures = filled(range(50), monkeypatch, room=10 * 100_000)
    held = pictures.take(50)
    assert [(one.index, one.sharpness) for one in held] == [(i, i) for i in range(50)]
    wholes = [one.index for one in held if one.is_whole]
    assert wholes == list(range(50 - len(wholes), 50))
    assert len(wholes) == (10 * 100_000 - 50 * THUMBNAIL_BYTES) // (100_000 - THUMBNAIL_BYTES)
    thumbnail = held[0].source
    assert (thumbnail.num_bytes, thumbnail.scaled(64, 36).tolist()[0][0]) == (THUMBNAIL_BYTES, [9, 9, 9])


def test_after_a_shot_the_next_is_kept_whole_again(monkeypatch):
    pictures = filled([1.0] * 50, monkeypatch, room=10 * 100_000)
    pictures.take(50)
    for index in range(50, 60):
        pictures.add(Held(index, 1.0, Fake()))
    assert [one.is_whole for one in pictures.take(60)] == [True] * 10


@pytest.mark.parametrize("num_frames", [41, 399, 5000])
@pytest.mark.parametrize("num_bytes", [1000, 100_000])
def test_a_shot_that_outgrows_thumbnails_keeps_its_sharpest_and_all_of_the_last(
    monkeypatch, num_frames, num_bytes
):
    sharpness = [(index * 37) % 101 for index in range(num_frames)]
    room = 40 * min(num_bytes, THUMBNAIL_BYTES)
    pictures = filled(sharpness, monkeypatch, room=room, source=Fake(num_bytes))
    kept = [one.index for one in pictures.take(num_frames)]
    assert 10 <= len(kept) <= 40
    assert kept == sorted(kept)
    assert kept[-4:] == list(range(num_frames - 4, num_frames))
    assert max(sharpness) in {sharpness[index] for index in kept}


def test_a_picture_larger_than_all_room_waits_as_a_thumbnail(monkeypatch):
    (one,) = filled([1.0], monkeypatch, room=10_000).take(1)
    assert not one.is_whole


def test_candidates_are_the_two_key_frames_and_the_sharpest_of_each_eighth():
    sharpness = [1.0] * 160
    for index in (6, 28, 54, 66, 88, 116, 122, 150):
        sharpness[index] = 2.0
    held = [Held(100 + index, value, Fake()) for index, value in enumerate(sharpness)]
    numbers = [one.index - 100 for one in choose_candidates(held, 100, 260)]
    assert set(numbers) == {6, 28, 54, 66, 88, 116, 122, 150}
    assert numbers == sorted(numbers)


def test_a_shot_of_one_picture_has_it_as_its_candidate():
    assert [one.index for one in choose_candidates([Held(7, 0.0, Fake())], 7, 8)] == [7]
