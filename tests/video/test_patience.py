import threading
import time

import pytest

from tempo.engine.types import SkipRecord
from tempo.video.patience import with_patience


def test_what_the_work_returns_or_raises_comes_out():
    assert with_patience(lambda pulse: 7, 5) == 7
    for error in (SkipRecord("x", "y"), OSError(28, "No space left on device"), TimeoutError("of the drive")):
        with pytest.raises(type(error)) as caught:
            with_patience(lambda pulse, error=error: (_ for _ in ()).throw(error), 5)
        assert caught.value is error


def test_work_that_stands_still_is_given_up():
    forever = threading.Event()
    start = time.monotonic()
    with pytest.raises(SkipRecord) as caught:
        with_patience(lambda pulse: forever.wait(), 0.2)
    forever.set()
    assert caught.value.reason == "decoder hangs"
    assert "0.2 seconds" in caught.value.detail
    assert time.monotonic() - start < 5


def test_slow_work_that_moves_on_is_waited_for():
    def slow(pulse):
        for _ in range(10):
            time.sleep(0.2)
            pulse.beat()
        return "done"

    assert with_patience(slow, 1.5) == "done"


def test_what_is_not_the_decoders_may_take_its_time():
    def ask_a_network(pulse):
        pulse.rest()
        time.sleep(1.0)
        pulse.beat()
        return "done"

    assert with_patience(ask_a_network, 0.3) == "done"


def test_work_that_was_given_up_ends_at_its_next_step():
    released, ended = threading.Event(), []

    def work(pulse):
        released.wait()
        try:
            pulse.beat()
        except SkipRecord as dropped:
            ended.append(dropped.reason)
            raise

    with pytest.raises(SkipRecord):
        with_patience(work, 0.1)
    released.set()
    for _ in range(100):
        if ended:
            break
        time.sleep(0.05)
    assert ended == ["decoder hangs"]


def thread_of(_):
    return threading.get_ident()


def test_one_thread_does_one_work_after_the_other():
    assert len({with_patience(thread_of, 5) for _ in range(20)}) == 1


def test_work_that_was_given_up_keeps_its_thread_until_it_ends():
    released = threading.Event()

    def hang(pulse):
        hanging.append(threading.get_ident())
        released.wait()

    hanging = []
    with pytest.raises(SkipRecord):
        with_patience(hang, 0.1)
    assert with_patience(thread_of, 5) not in hanging
    released.set()
