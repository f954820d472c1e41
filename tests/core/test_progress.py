"""Progress: a line every few seconds in a log, a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tempo.core import progress
from tempo.core.progress import LINE_EVERY_SECONDS, Counter, counters


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def log():
    """A console that writes to a file."""
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), width=120, force_terminal=True, highlight=False)


def lines(console):
    return console.file.getvalue().splitlines()


def test_long_work_shows_count_speed_and_time_left_every_few_seconds(clock, log):
    with Counter(log, "shots", 100).live() as counter:
        for _ in range(50):
            clock.now += 1
            counter.advance(2, note="loss 0.500")
    shown = lines(log)
    assert len(shown) == 1 + 50 // (LINE_EVERY_SECONDS + 1)
    assert shown[0].split() == ["shots:", "32/100", "2.0/s", "34", "s", "left", "loss", "0.500"]
    assert shown[-1] == "shots: 100/100 in 50.0 s"


def test_stages_that_generate_show_tokens_per_second(clock, log):
    with Counter(log, "captions", 10).live() as counter:
        clock.now += 20
        counter.advance(5, num_tokens=300)
    assert lines(log)[0].endswith("15 tokens/s")
    assert lines(log)[-1] == "captions: 5/10 in 20.0 s 15 tokens/s"


def test_work_done_before_a_restart_counts_as_done_but_not_as_speed(clock, log):
    """Otherwise a resumed run would promise to be ready at once."""
    counter = Counter(log, "shots", 1000, done=900)
    clock.now += 20
    counter.advance(10)
    assert lines(log)[0].split() == ["shots:", "910/1000", "0.5/s", "180", "s", "left"]


def test_terminal_shows_a_bar_and_ends_with_the_same_line(clock, terminal):
    with Counter(terminal, "shots", 10, done=7).live() as counter:
        for _ in range(3):
            counter.advance(note="loss 1")
    assert "10/10" in terminal.file.getvalue()
    assert "shots: 10/10 in 0.0 s" in terminal.file.getvalue()


def test_a_counter_closes_at_its_total(clock, log):
    with counters(log) as show:
        for name, total in (("dpo-16", 2), ("dpo-8", 3)):
            for done in range(1, total + 1):
                clock.now += 1
                show(name, done, total)
            log.print(f"after {name}")
    assert lines(log) == ["dpo-16: 2/2 in 1.0 s", "after dpo-16", "dpo-8: 3/3 in 2.0 s", "after dpo-8"]


def test_work_that_fails_has_no_closing_line(clock, log):
    def work():
        with counters(log) as show:
            show("dpo-16", 1, 3)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()
    assert lines(log) == []
