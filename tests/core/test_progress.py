"""Progress: a line now and then in a log, a bar on a terminal, and right counts in both."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tempo.core import progress
from tempo.core.progress import LINE_EVERY_SECONDS, Counter, Counters


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def log():
    """A console that writes into a file, as under `nohup`."""
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), width=120, force_terminal=True, highlight=False)


def lines(console):
    return console.file.getvalue().splitlines()


def test_quick_work_is_one_closing_line_in_a_log(clock, log):
    with Counter(log, "shots", 3).live() as counter:
        for _ in range(3):
            clock.now += 0.5
            counter.advance()
    assert lines(log) == ["shots: 3/3 in 1.5 s"]


def test_long_work_says_count_speed_and_time_left_now_and_then(clock, log):
    with Counter(log, "shots", 100).live() as counter:
        for _ in range(50):
            clock.now += 1
            counter.advance(2)
    said = lines(log)
    assert len(said) == 1 + 50 // (LINE_EVERY_SECONDS + 1)
    assert said[0].split() == ["shots:", "32/100", "2.0/s", "34", "s", "left"]
    assert said[-1] == "shots: 100/100 in 50.0 s"


def test_note_stands_at_the_end_of_a_line(clock, log):
    counter = Counter(log, "dpo-16", 4)
    clock.now += 20
    counter.advance(note="loss 0.500")
    assert lines(log)[0].endswith("loss 0.500")


def test_several_units_count_as_many(clock, log):
    with Counter(log, "captions", 20).live() as counter:
        counter.advance(8)
        counter.advance(8)
        assert counter.done == 16
    assert lines(log) == ["captions: 16/20 in 0.0 s"]


def test_no_work_is_said_too(clock, log):
    with Counter(log, "videos", 0).live():
        pass
    assert lines(log) == ["videos: 0/0 in 0.0 s"]


def test_work_done_before_a_restart_counts_as_done_but_not_as_speed(clock, log):
    """Else a run that goes on promises to be ready at once."""
    counter = Counter(log, "shots", 1000, done=900)
    clock.now += 20
    counter.advance(10)
    assert lines(log)[0].split() == ["shots:", "910/1000", "0.5/s", "180", "s", "left"]


def test_work_that_fails_leaves_no_closing_line(clock, log):
    with pytest.raises(OSError, match="full"), Counter(log, "shots", 3).live():
        raise OSError("full")
    assert lines(log) == []


def test_terminal_shows_a_bar_and_ends_with_the_same_line(clock, terminal):
    with Counter(terminal, "shots", 3).live() as counter:
        for _ in range(3):
            counter.advance(note="loss 1")
        assert counter._bar.tasks[0].completed == 3
        assert counter._bar.finished
    assert counter._bar is None
    assert "shots: 3/3 in 0.0 s" in terminal.file.getvalue()


def test_bar_begins_with_the_work_done_before_a_restart(clock, terminal):
    counter = Counter(terminal, "shots", 10, done=7)
    with counter.live():
        counter.advance(3)
        assert counter._bar.tasks[0].completed == 10


def test_bar_of_work_that_fails_is_taken_away(clock, terminal):
    counter = Counter(terminal, "shots", 3)
    with pytest.raises(OSError, match="full"), counter.live():
        raise OSError("full")
    with Counter(terminal, "clips", 1).live() as following:
        following.advance()
    assert "clips: 1/1" in terminal.file.getvalue()


@pytest.mark.parametrize("name", ["[bold]", "evaluation of [/x]"])
def test_brackets_in_a_name_are_shown_as_they_are(clock, name):
    from tempo.cli.main import console as cli_console

    console = cli_console()
    console.file = io.StringIO()
    with Counter(console, name, 1).live() as counter:
        counter.advance()
    assert lines(console) == [f"{name}: 1/1 in 0.0 s"]


def test_counters_follow_each_other_and_each_says_its_own_end(clock, log):
    with Counters(log) as counters:
        for name, total in (("dpo-16", 2), ("dpo-8", 3)):
            for done in range(1, total + 1):
                clock.now += 1
                counters.show(name, done, total)
    assert lines(log) == ["dpo-16: 2/2 in 2.0 s", "dpo-8: 3/3 in 2.0 s"]


def test_counters_that_were_never_used_say_nothing(log):
    with Counters(log):
        pass
    assert lines(log) == []


def test_counters_whose_work_fails_leave_no_closing_line(clock, log):
    def work():
        with Counters(log) as counters:
            counters.show("dpo-16", 1, 3)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()
    assert lines(log) == []
