"""Which files are videos, and which of these a row refers to."""

import hashlib
import os
import socket

import pytest
from video_material import context, plain, video_of

from tempo.config import parse_config
from tempo.core.records import Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context, SkipRecord
from tempo.video.find import (
    VideoFile,
    check_unchanged,
    find_video,
    find_videos,
    make_worker,
    read_library,
    video_id,
)


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
def test_an_extension_may_have_a_dot_and_any_case(tmp_path, extension):
    touch(tmp_path, "a.mp4", "b.mov")
    assert names(find_videos([tmp_path], [extension]), tmp_path) == ["a.mp4"]


def test_a_given_file_may_have_any_name_and_comes_once(tmp_path):
    touch(tmp_path, "film.dat", "other.dat", "a.mp4")
    given = [tmp_path, tmp_path / "film.dat", tmp_path / "a.mp4"]
    assert names(find_videos(given, ["mp4"]), tmp_path) == ["a.mp4", "film.dat"]


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


def test_a_dead_link_is_found_so_that_it_is_skipped_by_name_but_a_pipe_is_not(tmp_path):
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


def test_a_name_that_cannot_be_written_down_is_skipped_and_the_rest_is_taken(render, tmp_path):
    render([plain()] * 3, "a.mp4").rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    render([plain()] * 3, r"x\udce9.mp4")
    found = find_videos([tmp_path], ["mp4"])
    assert names(found, tmp_path) == [r"caf\udce9.mp4", r"x\udce9.mp4"]
    skipped, video = make_worker(context(tmp_path))([VideoFile(id=str(path)) for path in found])
    assert (skipped.id, skipped.reason) == (str(found[0]), "name is not UTF-8")
    assert skipped.model_dump_json()
    assert isinstance(video, Video), "a name may look like an escaped one"


def test_the_id_is_of_the_content_not_of_the_name(tmp_path):
    content = b"frames" * 1_000_000
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c").write_bytes(content[:-1] + b"t")
    assert video_id(tmp_path / "a") == video_id(tmp_path / "b") == hashlib.sha256(content).hexdigest()[:16]
    assert video_id(tmp_path / "c") != video_id(tmp_path / "a")


def test_a_changed_or_vanished_file_is_skipped(tmp_path):
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
def test_a_file_that_is_not_a_video_is_skipped_with_its_reason(render, tmp_path, spoil, reason):
    path = render([plain()] * 5)
    spoil(path)
    skipped = video_of(path, tmp_path)
    assert isinstance(skipped, Skipped)
    assert (skipped.id, skipped.stage, skipped.reason) == (str(path), "videos", reason)
    assert skipped.detail


def test_an_audio_file_is_not_a_video(silence, tmp_path):
    skipped = video_of(silence, tmp_path)
    assert (skipped.reason, skipped.detail) == ("no video stream", "streams: audio")


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


def test_a_folder_without_read_permission_is_skipped_and_the_rest_is_taken(tmp_path, monkeypatch):
    """Root may read everything, so the error is simulated."""
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


# Which video a row refers to


@pytest.fixture
def run(tmp_path):
    """The context of a run with one video, its copy, and a file that is not a video, in `films`."""
    films = tmp_path / "films"
    films.mkdir()
    for name in ("one.mp4", "second name.mp4"):
        (films / name).write_bytes(b"a film")
    (films / "broken.mp4").write_bytes(b"no film")
    store = RunStore(tmp_path / "run")
    facts = {"duration_seconds": 1.0, "width": 8, "height": 8, "fps": 1.0, "codec": "h264"}
    store.append("videos", [Video(id=video_id(films / "one.mp4"), path=str(films / "one.mp4"), **facts)])
    skipped = {
        "second name.mp4": "duplicate",
        "broken.mp4": "cannot be decoded",
        "gone.mp4": "cannot be read",
    }
    store.append(SKIPPED, [Skipped(id=str(films / n), stage="videos", reason=r) for n, r in skipped.items()])
    data = {"videos": {"paths": [str(films)]}}
    return Context(parse_config(data), tmp_path / "run")


def find(run, path="", folder="elsewhere", video_id=""):
    return find_video(read_library(run), str(path), video_id=video_id, folder=run.directory.parent / folder)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("films/one.mp4", ""),
        ("one.mp4", "films"),
        ("one.mp4", "elsewhere"),
        ("../films/one.mp4", "elsewhere"),
        ("second name.mp4", "films"),
        ("second name.mp4", "elsewhere"),
    ],
)
def test_a_path_is_relative_to_the_file_or_else_to_a_folder_of_the_videos(run, tmp_path, path, folder):
    assert find(run, path, folder) == video_id(tmp_path / "films" / "one.mp4")


def test_an_id_needs_no_path_and_is_asked_first(run, tmp_path):
    known = video_id(tmp_path / "films" / "one.mp4")
    assert find(run, video_id=known) == find(run, "broken.mp4", video_id=known) == known
    with pytest.raises(ValueError, match="asks about 77; the run has 1 videos"):
        find(run, video_id="77")


@pytest.mark.parametrize("name", ["broken.mp4", "gone.mp4"])
def test_a_file_that_was_skipped_has_no_id(run, name):
    assert find(run, name) == find(run, f"films/{name}", folder="") == ""


def test_a_file_that_the_run_never_saw_is_refused(run, tmp_path):
    (tmp_path / "other.mp4").write_bytes(b"another film")
    for path in (tmp_path / "other.mp4", "nowhere.mp4"):
        with pytest.raises(ValueError, match=r"asks about .*, which is not among the videos of this run"):
            find(run, path)
