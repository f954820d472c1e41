"""What stops a run, what costs one record, and decoders that hang."""

import errno
import threading
import time

import av
import cv2
import pytest
from video_material import context, plain, video_of

from tempo.core.records import Video
from tempo.engine.types import SkipRecord
from tempo.video import shots
from tempo.video.faults import MachineFault, per_record, watched
from tempo.video.find import VideoFile, check_unchanged, make_worker, video_id


def failing(error):
    def call(*_):
        raise error

    return call


def test_a_record_that_fails_in_an_unforeseen_way_is_skipped_alone():
    def fail_on_b(record):
        if record.id == "b":
            raise ZeroDivisionError("no such luck")
        return record

    results = per_record("shots", fail_on_b)([VideoFile(id=name) for name in "abc"])
    assert [result.id for result in results] == ["a", "b", "c"]
    assert (results[1].reason, results[1].detail) == (
        "cannot be processed",
        "ZeroDivisionError: no such luck",
    )


def test_a_full_disk_stops_the_run():
    with pytest.raises(OSError, match="No space left"):
        per_record("shots", failing(OSError(28, "No space left on device")))([VideoFile(id="a")])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.00 GiB for an array: memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        cv2.error("OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    ],
)
def test_memory_or_a_gpu_that_fails_stops_the_run(error):
    with pytest.raises(MachineFault, match=r"shots: .* failed at a: .*memory.*the same command again"):
        per_record("shots", failing(error))([VideoFile(id="a")])


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), cv2.error("(-215:Assertion failed) !_src.empty()")]
)
def test_other_errors_of_those_libraries_cost_the_video(error):
    (skipped,) = per_record("shots", failing(error))([VideoFile(id="a")])
    assert skipped.reason == "cannot be processed"


def test_a_frame_that_ffmpeg_cannot_convert_costs_the_video(tmp_path):
    """FFmpeg's error is an OSError too."""
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w", format="nut") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb4"
        stream.codec_context.codec_tag = "RGB\x04"
        for index in range(5):
            frame = av.VideoFrame(96, 64, "rgb4")
            frame.pts = index
            container.mux(stream.encode(frame))
    row = video_of(path, tmp_path)
    assert isinstance(row, Video)
    (skipped,) = shots.make_worker(context(tmp_path))([row])
    assert (skipped.stage, skipped.reason) == ("shots", "cannot be processed")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_file_that_may_not_be_read_is_skipped(render, tmp_path, monkeypatch, number):
    path = render([plain()] * 3)
    monkeypatch.setattr("pathlib.Path.open", failing(OSError(number, "no")))
    (row,) = make_worker(context(tmp_path))([VideoFile(id=str(path))])
    assert (row.reason, row.detail.endswith("no")) == ("cannot be opened", True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE])
def test_a_disk_that_fails_stops_the_run(render, tmp_path, monkeypatch, number):
    path = render([plain()] * 3)
    monkeypatch.setattr("pathlib.Path.open", failing(OSError(number, "a word")))
    with pytest.raises(MachineFault, match=rf"{path} cannot be read.*a word.*the same command again"):
        make_worker(context(tmp_path))([VideoFile(id=str(path))])


def test_a_disk_that_is_gone_stops_the_run(render, tmp_path):
    """It takes the folder along, or leaves an empty one; a link may lead to it."""
    disk, home = tmp_path / "disk", tmp_path / "home"
    (disk / "deep").mkdir(parents=True)
    home.mkdir()
    path = render([plain()] * 3, "disk/deep/a.mp4")
    link = home / "a.mp4"
    link.symlink_to(path)
    known = video_id(path)
    disk.rename(tmp_path / "gone")
    for name in (path, link):
        with pytest.raises(MachineFault, match=r"Is the disk of .*deep mounted"):
            check_unchanged(str(name), known)
    (disk / "deep").mkdir(parents=True)
    with pytest.raises(SkipRecord):
        check_unchanged(str(path), known, ["elsewhere"])
    with pytest.raises(MachineFault, match="mounted"):
        check_unchanged(str(path), known, [str(disk / "deep")])
    (disk / "deep" / "b.mp4").touch()
    with pytest.raises(SkipRecord):
        check_unchanged(str(path), known, [str(disk / "deep")])


# Watched work


@pytest.mark.parametrize(
    "error", [SkipRecord("x", "y"), OSError(28, "No space left on device"), TimeoutError("of the drive")]
)
def test_what_the_work_raises_comes_out(error):
    with pytest.raises(type(error)) as caught:
        watched(failing(error), 5)
    assert caught.value is error


def test_work_that_makes_no_progress_is_given_up():
    forever = threading.Event()
    start = time.monotonic()
    with pytest.raises(SkipRecord, match=r"decoder hangs: .*0\.2 seconds"):
        watched(lambda watchdog: forever.wait(), 0.2)
    forever.set()
    assert time.monotonic() - start < 5


def test_slow_work_that_makes_progress_is_waited_for():
    def work(watchdog):
        for _ in range(10):
            time.sleep(0.2)
            watchdog.tick()
        return "done"

    assert watched(work, 1.5) == "done"


def test_the_clock_stops_for_work_that_is_not_the_decoders():
    def work(watchdog):
        watchdog.pause()
        time.sleep(1.0)
        watchdog.tick()
        return "done"

    assert watched(work, 0.3) == "done"


def test_work_that_was_given_up_keeps_its_thread_and_ends_at_its_next_step():
    released, ended, hanging = threading.Event(), threading.Event(), []

    def work(watchdog):
        hanging.append(threading.get_ident())
        released.wait()
        try:
            watchdog.tick()
        except SkipRecord:
            ended.set()
            raise

    with pytest.raises(SkipRecord):
        watched(work, 0.1)
    assert watched(lambda _: threading.get_ident(), 5) not in hanging
    released.set()
    assert ended.wait(10)
