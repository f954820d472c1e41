import errno
import hashlib
import os
import socket

import av
import cv2
import pytest
from video_material import context, plain, rotate, video_of

from tempo.core.records import Skipped, Video
from tempo.engine.types import SkipRecord
from tempo.video import shots
from tempo.video.faults import MachineFault
from tempo.video.videos import VideoFile, check_unchanged, find_videos, make_worker, per_record, video_id


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folders_are_searched_to_any_depth_and_sorted(tmp_path):
    touch(tmp_path, "b.mp4", "a/deep/er/c.MKV", "a/note.txt", "z/mp4", "a.mp4")
    assert names(find_videos([tmp_path], ("mp4", "mkv")), tmp_path) == ["a/deep/er/c.MKV", "a.mp4", "b.mp4"]


@pytest.mark.parametrize("extension", ["mp4", ".mp4", "MP4"])
def test_an_extension_is_understood_with_and_without_its_dot(tmp_path, extension):
    touch(tmp_path, "a.mp4", "b.mov")
    assert names(find_videos([tmp_path], [extension]), tmp_path) == ["a.mp4"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path):
    touch(tmp_path, "film.dat", "other.dat")
    assert names(find_videos([tmp_path / "film.dat"], ["mp4"]), tmp_path) == ["film.dat"]


def test_a_file_that_is_named_and_lies_in_a_named_folder_comes_once(tmp_path):
    touch(tmp_path, "a.mp4")
    assert len(find_videos([tmp_path, tmp_path / "a.mp4", str(tmp_path)], ["mp4"])) == 1


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "a/film.mp4")
    (tmp_path / "a/round").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    assert names(find_videos([tmp_path], ["mp4"]), tmp_path) == ["a/film.mp4"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    touch(tmp_path, "far/film.mp4", "near/other.mp4")
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    assert names(find_videos([tmp_path / "near"], ["mp4"]), tmp_path) == [
        "near/link/film.mp4",
        "near/other.mp4",
    ]


def test_a_dead_link_is_found_so_that_it_leaves_a_drop_but_a_pipe_is_not(tmp_path):
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert names(find_videos([tmp_path], ["mp4"]), tmp_path) == ["dead.mp4"]


def test_a_path_that_does_not_exist_is_named(tmp_path):
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=r"no-such-folder' does not exist"):
        find_videos([tmp_path, tmp_path / "no-such-folder"], ["mp4"])


def test_nothing_found_names_the_folder_and_what_was_looked_for(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(ValueError, match=rf"{tmp_path}.*\.mp4, \.mkv"):
        find_videos([tmp_path], ["mp4", "mkv"])


def test_no_paths_at_all_is_refused():
    with pytest.raises(ValueError, match="no path at all"):
        find_videos([], ["mp4"])


def test_a_name_that_cannot_be_written_down_is_set_aside_and_the_rest_is_taken(render, tmp_path):
    render([plain()] * 3, "a.mp4").rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    render([plain()] * 3, r"x\udce9.mp4")
    found = find_videos([tmp_path], ["mp4"])
    assert names(found, tmp_path) == [r"caf\udce9.mp4", r"x\udce9.mp4"]
    drop, video = make_worker(context(tmp_path))([VideoFile(id=str(path)) for path in found])
    assert (drop.id, drop.reason) == (str(found[0]), "name is not UTF-8")
    assert drop.model_dump_json()
    assert isinstance(video, Video), "a name may look like an escaped one"


def test_the_id_is_of_the_content_not_of_the_name(tmp_path):
    content = b"frames" * 1_000_000
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c").write_bytes(content[:-1] + b"t")
    assert video_id(tmp_path / "a") == video_id(tmp_path / "b") == hashlib.sha256(content).hexdigest()[:16]
    assert video_id(tmp_path / "c") != video_id(tmp_path / "a")


def test_a_changed_or_vanished_file_is_dropped(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    known = video_id(path)
    check_unchanged(str(path), known)
    path.write_bytes(b"two")
    with pytest.raises(SkipRecord) as caught:
        check_unchanged(str(path), known)
    assert caught.value.reason == "file changed"
    path.unlink()
    with pytest.raises(SkipRecord) as caught:
        check_unchanged(str(path), known)
    assert caught.value.reason == "no such file"


def test_a_video_is_described(render, tmp_path):
    path = render([plain(width=80, height=48)] * 10, fps=20, audio=True)
    video = video_of(path, tmp_path)
    assert isinstance(video, Video)
    assert (video.id, video.path) == (video_id(path), str(path))
    assert (video.width, video.height, video.fps, video.codec) == (80, 48, 20.0, "h264")
    assert video.duration_seconds == pytest.approx(0.5)


def test_a_rotated_video_has_its_size_as_coded(render, tmp_path):
    path = render([plain(width=80, height=48)] * 3)
    rotate(path, 1)
    video = video_of(path, tmp_path)
    assert (video.width, video.height) == (80, 48)


def test_a_file_without_a_duration_says_zero(render, tmp_path):
    path = render([plain()] * 3, "bare.h264")
    assert video_of(path, tmp_path).duration_seconds == 0.0


def cut_off(path):
    path.write_bytes(path.read_bytes()[:400])


def empty(path):
    path.write_bytes(b"")


def playlist(path):
    path.write_bytes(b"#EXTM3U\n#EXTINF:1\nhttp://127.0.0.1:9/a.ts\n")


def folder(path):
    path.unlink()
    path.mkdir()


def unknown_codec(path):
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xxxx"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no such file"),
        (empty, "empty file"),
        (cut_off, "cannot be opened"),
        (playlist, "cannot be opened"),
        (folder, "cannot be opened"),
        (lambda path: path.write_text("not a video"), "cannot be opened"),
        (unknown_codec, "no frame decodes"),
    ],
)
def test_what_is_no_video_is_dropped_with_its_reason(render, tmp_path, spoil, reason):
    path = render([plain()] * 5)
    spoil(path)
    drop = video_of(path, tmp_path)
    assert isinstance(drop, Skipped)
    assert (drop.id, drop.stage, drop.reason) == (str(path), "videos", reason)
    assert drop.detail


def test_sound_alone_is_no_video(silence, tmp_path):
    drop = video_of(silence, tmp_path)
    assert (drop.reason, drop.detail) == ("no video stream", "streams: audio")


def test_a_name_that_looks_like_a_protocol_is_a_file(render, tmp_path, monkeypatch):
    render([plain()] * 3).rename(tmp_path / "concat:a|b %d.mp4")
    monkeypatch.chdir(tmp_path)
    assert isinstance(video_of("concat:a|b %d.mp4", tmp_path), Video)


def test_a_playlist_reaches_no_network(tmp_path):
    path = tmp_path / "list.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
        assert isinstance(video_of(path, tmp_path), Skipped)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_one_bad_file_does_not_stop_its_batch(render, tmp_path):
    good = render([plain()] * 3)
    batch = [VideoFile(id=str(path)) for path in (tmp_path / "gone", good, tmp_path / "gone")]
    assert [type(row) for row in make_worker(context(tmp_path))(batch)] == [Skipped, Video, Skipped]


def test_a_record_that_fails_in_an_unforeseen_way_is_set_aside_alone():
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


def test_a_full_disk_stops_the_run_instead_of_emptying_it():
    def fail(record):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        per_record("shots", fail)([VideoFile(id="a")])


def test_a_folder_without_read_permission_is_set_aside_and_the_rest_is_taken(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is made up."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.mp4").write_bytes(b"x")

    def refuse(real):
        def call(path="."):
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return call

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    found = find_videos([tmp_path], ["mp4"])
    assert found == [tmp_path / "closed", tmp_path / "open" / "a.mp4"]
    (row,) = make_worker(context(tmp_path))([VideoFile(id=str(found[0]))])
    assert (row.reason, "Permission denied" in row.detail) == ("cannot be opened", True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_file_that_may_not_be_read_is_set_aside(render, tmp_path, monkeypatch, number):
    path = render([plain()] * 3)
    monkeypatch.setattr("tempo.video.videos.video_id", failing(OSError(number, "no")))
    (row,) = make_worker(context(tmp_path))([VideoFile(id=str(path))])
    assert (row.reason, row.detail.endswith("no")) == ("cannot be opened", True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("place", ["tempo.video.videos.video_id", "pathlib.Path.open"])
def test_a_disk_that_fails_stops_the_run_instead_of_emptying_it(render, tmp_path, monkeypatch, number, place):
    path = render([plain()] * 3)
    monkeypatch.setattr(place, failing(OSError(number, "a word")))
    with pytest.raises(MachineFault, match=rf"{path} cannot be read.*a word.*the same command again"):
        make_worker(context(tmp_path))([VideoFile(id=str(path))])


def failing(error):
    def call(*_):
        raise error

    return call


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
def test_memory_or_a_gpu_that_fails_stops_the_run_instead_of_emptying_it(error):
    with pytest.raises(MachineFault, match=r"shots: .* at a, which is not to blame: .*memory"):
        per_record("shots", failing(error))([VideoFile(id="a")])


def test_other_errors_of_those_libraries_are_of_the_video():
    for error in (RuntimeError("shape mismatch"), cv2.error("(-215:Assertion failed) !_src.empty()")):
        (drop,) = per_record("shots", failing(error))([VideoFile(id="a")])
        assert drop.reason == "cannot be processed"


def test_a_picture_that_ffmpeg_cannot_convert_is_the_fault_of_the_video(tmp_path):
    """Its error is an OSError too."""
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
    (drop,) = shots.make_worker(context(tmp_path))([row])
    assert (drop.stage, drop.reason) == ("shots", "cannot be processed")
    assert "Operation not supported" in drop.detail


def test_a_disk_that_is_gone_stops_the_run_instead_of_emptying_it(render, tmp_path):
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
        with pytest.raises(MachineFault, match=r"is the disk of .*deep mounted"):
            check_unchanged(str(name), known)
    (disk / "deep").mkdir(parents=True)
    with pytest.raises(SkipRecord):
        check_unchanged(str(path), known, ["elsewhere"])
    with pytest.raises(MachineFault, match="mounted"):
        check_unchanged(str(path), known, [str(disk / "deep")])
    (disk / "deep" / "b.mp4").touch()
    with pytest.raises(SkipRecord):
        check_unchanged(str(path), known, [str(disk / "deep")])
