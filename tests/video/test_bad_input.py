"""Unusual files in one folder: each ends as clips or is skipped with a reason."""

import os
from pathlib import Path

import pytest
from rich.console import Console
from sample_material import context_of
from video_material import moving

from tempo.core.records import Clips, Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.pipeline.runner import run_stages


def run_on(path, tmp_path, until="clips"):
    """The store of a run over the path, up to a stage."""
    context = context_of(tmp_path / "run", run={"num_workers": 1}, videos={"paths": [str(path)]})
    run_stages(context, Console(quiet=True), until=until)
    return RunStore(tmp_path / "run")


NAMES = ("plain.mp4", 'it\'s "quoted".mp4', "two\nlines.mp4", "ünï \u2028 %d *?[a]{b} 🎬.mp4")


@pytest.fixture
def folder(render, tmp_path, silence):
    """Videos with clips under odd names, a copy, files that are not videos, and a link in a circle."""
    place = tmp_path / "videos"
    place.mkdir()
    for number, name in enumerate(NAMES):
        # Four shots are enough for clips.
        render([image for shot in range(4) for image in moving(10 * number + shot, 20)], f"videos/{name}")
    (place / "copy.mp4").write_bytes((place / "plain.mp4").read_bytes())
    (place / "zero.mp4").touch()
    (place / "text.mp4").write_text("no video")
    (place / "cut.mp4").write_bytes((place / "plain.mp4").read_bytes()[:500])
    silence.rename(place / "sound.mp4")
    (place / os.fsdecode(b"caf\xe9.mp4")).write_text("no video")
    (place / "dead.mp4").symlink_to(place / "gone")
    (place / "round").symlink_to(place)
    return place


def endings(store):
    """How each file that was found ended: the name of the file, and the reason or None."""
    paths = {video.id: video.path for video in store.read("videos", Video)}
    skipped = [(paths.get(row.id, row.id), row.reason) for row in store.read(SKIPPED, Skipped)]
    kept = [(row.path, None) for row in store.read("clips", Clips)]
    found = [(Path(path).name, reason) for path, reason in [*skipped, *kept]]
    assert len(dict(found)) == len(found), "a file ended twice"
    return dict(found)


BAD = {
    "zero.mp4": "empty file",
    "text.mp4": "cannot be opened",
    "cut.mp4": "cannot be opened",
    "sound.mp4": "no video stream",
    "dead.mp4": "no such file",
    # Records cannot hold a name that is not UTF-8.
    r"caf\udce9.mp4": "no such file",
    # The first in the order of names stays.
    "plain.mp4": "duplicate",
    "copy.mp4": None,
}


def test_every_file_of_a_wild_folder_ends_as_clips_or_with_a_reason(folder, tmp_path):
    store = run_on(folder, tmp_path)
    assert endings(store) == dict.fromkeys(NAMES) | BAD
    before = {path: path.read_bytes() for path in store.directory.rglob("*") if path.is_file()}
    run_on(folder, tmp_path)
    assert before == {path: path.read_bytes() for path in store.directory.rglob("*") if path.is_file()}


def test_files_that_change_or_go_between_stages_are_skipped(folder, tmp_path):
    changed, gone, late = (folder / name for name in (NAMES[1], NAMES[2], NAMES[3]))
    run_on(folder, tmp_path, until="videos")
    changed.write_bytes(changed.read_bytes() + b"more")
    gone.unlink()
    run_on(folder, tmp_path, until="shots")
    late.unlink()
    found = endings(run_on(folder, tmp_path))
    lost = {changed.name: "file changed", gone.name: "no such file", late.name: "no such file"}
    assert found == dict.fromkeys(NAMES) | BAD | lost
