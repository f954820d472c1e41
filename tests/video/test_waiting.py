import pytest

from tempo.video import waiting
from tempo.video.waiting import Held, Waiting, choose_candidates


class Fake:
    """A picture of a size that is claimed."""

    num_bytes = 1000


def filled(sharpness, monkeypatch, *, room):
    monkeypatch.setattr(waiting, "HELD_BYTES", room * Fake.num_bytes)
    pictures = Waiting()
    most = 0
    for index, value in enumerate(sharpness):
        pictures.add(Held(index, value, Fake()))
        most = max(most, len(pictures))
    return pictures, most


def test_nothing_is_lost_while_there_is_room(monkeypatch):
    pictures, _ = filled(range(100), monkeypatch, room=100)
    assert [one.index for one in pictures.take(60)] == list(range(60))
    assert [one.index for one in pictures.take(100)] == list(range(60, 100))


@pytest.mark.parametrize("num_frames", [101, 399, 400, 5000])
def test_a_longer_shot_keeps_the_sharpest_of_even_buckets(monkeypatch, num_frames):
    sharpness = [(index * 37) % 101 for index in range(num_frames)]
    pictures, most = filled(sharpness, monkeypatch, room=100)
    kept = [one.index for one in pictures.take(num_frames)]
    assert most <= 100
    width = 2 ** next(n for n in range(20) if -(-num_frames // 2**n) <= 100)
    buckets = [range(at, min(at + width, num_frames)) for at in range(0, num_frames, width)]
    assert kept == [max(bucket, key=sharpness.__getitem__) for bucket in buckets]
    assert width <= 2 * num_frames / 100 or width == 1


def test_after_a_shot_the_next_is_kept_whole_again(monkeypatch):
    pictures, _ = filled([1.0] * 250, monkeypatch, room=100)
    pictures.take(250)
    for index in range(250, 300):
        pictures.add(Held(index, 1.0, Fake()))
    assert len(pictures.take(300)) == 50


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
