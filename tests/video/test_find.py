"""Which files are videos, and which of these a row refers to."""

import hashlib
import socket
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from sample_material import context_of, video_row
from video_material import plain, video_of

from tempo.core.records import Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.video.find import find_on_disk, find_video, find_videos, read_library, video_id

FILES = ("b.mp4", "a/deep/er/c.MKV", "a/note.txt", "z/mp4", "a.mp4", "film.dat", "other.dat")


@pytest.fixture
def files(tmp_path):
    """A folder with FILES, two links in a circle, and a link to another folder."""
    for name in (*FILES, "../far/d.mp4"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(b"x")
    (tmp_path / "here" / "a/round").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "a/self").symlink_to(tmp_path / "here" / "a")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("given", "extensions", "expected"),
    [
        (["."], ["mp4", "mkv"], ["a/deep/er/c.MKV", "a.mp4", "b.mp4", "link/d.mp4"]),
        ([".", "film.dat", "a.mp4"], ["mkv"], ["a/deep/er/c.MKV", "a.mp4", "film.dat"]),
    ],
)
def test_folders_are_searched_and_given_files_may_have_any_name(files, given, extensions, expected):
    found = find_videos([files / name for name in given], extensions)
    assert [str(path.relative_to(files)) for path in found] == expected


def test_a_search_that_finds_nothing_is_refused(files):
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        find_videos([files / "a", files / "nowhere"], ["mp4"])
    with pytest.raises(ValueError, match=r"no video in .*z \(looked for \.mp4, \.mkv\)"):
        find_videos([files / "z"], ["mp4", "mkv"])


def test_a_video_is_described(render, tmp_path):
    path = render([plain(width=80, height=48)] * 10, fps=20)
    video = video_of(path, tmp_path)
    assert (video.id, video.path) == (hashlib.sha256(path.read_bytes()).hexdigest()[:16], str(path))
    assert (video.width, video.height, video.fps, video.codec) == (80, 48, 20.0, "h264")
    assert video.duration_seconds == pytest.approx(0.5)


def test_a_playlist_reaches_no_network(tmp_path):
    path = tmp_path / "list.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
        assert isinstance(video_of(path, tmp_path), Skipped)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture
def run(tmp_path):
    """The context of a run on `films`: one video, its copy, and two other files that were skipped."""
    films = tmp_path / "films"
    films.mkdir()
    for name in ("one.mp4", "second name.mp4"):
        (films / name).write_bytes(b"a film")
    (films / "broken.mp4").write_bytes(b"no film")
    store = RunStore(tmp_path / "run")
    store.append("videos", [video_row(video_id(films / "one.mp4"), films / "one.mp4")])
    skipped = [films / name for name in ("second name.mp4", "broken.mp4", "gone.mp4")]
    store.append(SKIPPED, [Skipped(id=str(path), stage="videos", reason="x", detail="") for path in skipped])
    return context_of(tmp_path / "run", videos={"paths": [str(films)]})


def find(run, path="", folder="elsewhere", video_id=""):
    return find_video(read_library(run), str(path), video_id=video_id, folder=run.directory.parent / folder)


@pytest.mark.parametrize(
    ("path", "folder", "is_found"),
    [
        ("films/one.mp4", "", True),
        ("one.mp4", "films", True),
        ("one.mp4", "elsewhere", True),
        ("../films/one.mp4", "elsewhere", True),
        ("second name.mp4", "films", True),
        ("second name.mp4", "elsewhere", True),
        ("films/broken.mp4", "", False),
        ("gone.mp4", "elsewhere", False),
    ],
)
def test_a_path_is_relative_to_the_file_or_to_a_folder_of_the_videos(run, tmp_path, path, folder, is_found):
    known = video_id(tmp_path / "films" / "one.mp4")
    assert find(run, path, folder) == (known if is_found else "")
    assert find(run, path, folder, known) == known


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_addresses_and_names_in_another_unicode_form_are_found(tmp_path, form):
    # Folder and file have different forms on disk, as after an archive of macOS was unpacked.
    film = tmp_path / unicodedata.normalize("NFC", "Bücher") / unicodedata.normalize("NFD", "späť 1.mp4")
    film.parent.mkdir()
    film.write_bytes(b"a film")
    name = unicodedata.normalize(form, str(film))
    for path in (name, Path(name).name, f"file://{name}", f"FILE://localhost{quote(name)}"):
        assert find_on_disk(film.parent, path) == str(film)


def test_a_video_that_the_run_does_not_have_is_refused(run, tmp_path):
    (tmp_path / "other.mp4").write_bytes(b"another film")
    for path in (tmp_path / "other.mp4", "nowhere.mp4"):
        with pytest.raises(ValueError, match=r" is not among the videos of this run"):
            find(run, path)
    with pytest.raises(ValueError, match="'77' is not among the 1 videos of this run"):
        find(run, video_id="77")
