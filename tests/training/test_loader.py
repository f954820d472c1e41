"""Batches made ahead: in order, split over processes, errors not swallowed."""

import threading

import pytest

from tempo.training.groups import Lesson
from tempo.training.loader import load_batches

LESSONS = [Lesson(f"v{i}/2", f"v{i}") for i in range(5)]


def feed(*sizes):
    rest, left = list(LESSONS), list(sizes)

    def next_lessons():
        size = left.pop(0) if left else 0
        taken = rest[:size]
        del rest[:size]
        return taken

    return next_lessons


def test_every_batch_comes_once_and_in_order():
    batches = list(load_batches(feed(2, 2, 1), lambda lesson: lesson.id))
    assert [batch.groups for batch in batches] == [["v0/2", "v1/2"], ["v2/2", "v3/2"], ["v4/2"]]
    assert [[lesson.id for lesson in batch.own] for batch in batches] == [b.groups for b in batches]
    assert not any(batch.is_filler for batch in batches)


def test_two_processes_share_a_batch():
    halves = [
        [b.groups for b in load_batches(feed(4, 1), lambda lesson: lesson.id, rank=rank, num_processes=2)]
        for rank in (0, 1)
    ]
    assert halves == [[["v0/2", "v2/2"], ["v4/2"]], [["v1/2", "v3/2"], ["v4/2"]]]


def test_a_process_without_a_lesson_fills_in_and_says_so():
    (batch,) = load_batches(feed(1), lambda lesson: lesson.id, rank=1, num_processes=2)
    assert batch.is_filler
    assert batch.groups == ["v0/2"]


def test_the_next_batch_is_made_while_this_one_is_in_use():
    made = threading.Event()

    def make(lesson):
        if lesson.id == "v1/2":
            made.set()
        return lesson.id

    batches = load_batches(feed(1, 1), make)
    next(batches)
    assert made.wait(5)
    assert [batch.groups for batch in batches] == [["v1/2"]]


def test_an_error_in_the_thread_reaches_the_step():
    def make(lesson):
        raise FileNotFoundError(lesson.id)

    with pytest.raises(FileNotFoundError, match="v0/2"):
        list(load_batches(feed(1), make))


def test_no_lessons_no_batches():
    assert list(load_batches(feed(), lambda lesson: lesson)) == []
