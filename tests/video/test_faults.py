"""What stops a run, what costs one record, and decoders that hang."""

import errno
import threading
import time

import av
import cv2
import pytest

from tempo.engine.types import SkipRecord
from tempo.video.faults import check_file, per_record, watched
from tempo.video.find import VideoFile


def failing(error):
    def call(*_):
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (ZeroDivisionError("no such luck"), None),
        (RuntimeError("shape mismatch"), None),
        (cv2.error("(-215:Assertion failed) !_src.empty()"), None),
        # An OSError too, but of FFmpeg.
        (av.error.PermissionError(errno.EPERM, "Operation not permitted"), None),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (MemoryError("Unable to allocate 3.00 GiB"), "shots: memory or the GPU failed at b"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."), "the same command again"),
        (cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate"), "Free some memory"),
    ],
)
def test_an_error_costs_its_record_unless_the_machine_failed(error, stops):
    worker = per_record("shots", lambda record: failing(error)() if record.id == "b" else record)
    rows = [VideoFile(id=name) for name in "abc"]
    if stops:
        with pytest.raises((OSError, ValueError), match=stops):
            worker(rows)
    else:
        one, skipped, other = worker(rows)
        assert (one, other) == (rows[0], rows[2])
        assert (skipped.id, skipped.stage, skipped.reason) == ("b", "shots", "cannot be processed")
        assert skipped.detail == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *((SkipRecord, n) for n in (errno.EACCES, errno.ELOOP)),
        *((OSError, n) for n in (errno.EIO, errno.EMFILE)),
    ],
)
def test_a_file_without_access_is_skipped_and_a_failing_disk_stops_the_run(monkeypatch, kind, number):
    monkeypatch.setattr("pathlib.Path.open", failing(OSError(number, "some words")))
    with pytest.raises(kind, match="some words"):
        check_file("a.mp4")


def test_a_missing_file_is_skipped_and_a_missing_or_empty_folder_stops_the_run(tmp_path):
    folder = tmp_path / "disk"
    for _ in range(2):
        with pytest.raises(OSError, match="Check that its disk is mounted"):
            check_file(folder / "a.mp4")
        folder.mkdir(exist_ok=True)
    (folder / "b.mp4").touch()
    with pytest.raises(SkipRecord, match="no such file"):
        check_file(folder / "a.mp4")


def test_watched_items_come_until_the_first_error():
    items = watched(map(int, ["1", "2", "x"]), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="'x'"):
        next(items)
    # Time between items does not count.
    assert [time.sleep(0.4) for _ in watched(iter(range(9)), 0.3)] == [None] * 9
    # The limit is for one item, however many are handed over at a time.
    slow = (time.sleep(0.2) for _ in range(6))
    assert list(watched(slow, 1.0, num_ahead=64)) == [None] * 6
    slow = (time.sleep(0.01) for _ in range(30))
    assert list(watched(slow, 0.1, num_ahead=64)) == [None] * 30


def test_an_item_that_takes_too_long_is_given_up_and_its_thread_ends():
    released, ended = threading.Event(), threading.Event()

    def work():
        try:
            yield released.wait()
        finally:
            ended.set()

    start = time.monotonic()
    with pytest.raises(SkipRecord, match=r"decoder hangs: .*0\.2 seconds"):
        list(watched(work(), 0.2))
    assert time.monotonic() - start < 5
    released.set()
    assert ended.wait(10)
