"""A row's video is found by id, path or content, and one that was set aside is told from one never seen."""

import pytest

from tempo.config import parse_config
from tempo.core.records import Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.video.library import find_video, read_library
from tempo.video.videos import video_id


@pytest.fixture
def run(tmp_path):
    """The context of a run with one video, its second name, and a file that is no video, in `films`."""
    films = tmp_path / "films"
    films.mkdir()
    for name in ("one.mp4", "second name.mp4"):
        (films / name).write_bytes(b"a film")
    (films / "broken.mp4").write_bytes(b"no film")
    store = RunStore(tmp_path / "run")
    facts = {"duration_seconds": 1.0, "width": 8, "height": 8, "fps": 1.0, "codec": "h264"}
    store.append("videos", [Video(id=video_id(films / "one.mp4"), path=str(films / "one.mp4"), **facts)])
    dropped = {
        "second name.mp4": "duplicate",
        "broken.mp4": "cannot be decoded",
        "gone.mp4": "cannot be read",
    }
    store.append(SKIPPED, [Skipped(id=str(films / n), stage="videos", reason=r) for n, r in dropped.items()])
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
def test_a_file_that_was_set_aside_has_no_id(run, name):
    assert find(run, name) == find(run, f"films/{name}", folder="") == ""


def test_a_file_that_the_run_never_saw_is_refused(run, tmp_path):
    (tmp_path / "other.mp4").write_bytes(b"another film")
    for path in (tmp_path / "other.mp4", "nowhere.mp4"):
        with pytest.raises(ValueError, match=r"asks about .*, which is not among the videos of this run"):
            find(run, path)
