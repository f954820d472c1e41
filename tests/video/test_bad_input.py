"""Unusual files, alone and all in one folder: each ends as clips or is skipped with a reason."""

import os
import struct
from pathlib import Path

import av
import pytest
from rich.console import Console
from video_material import context, moving, number_of, numbered, plain, video_of

from tempo.config import Config
from tempo.core.records import Clips, Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.pipeline.runner import run_stages
from tempo.video import clips, shots
from tempo.video.decode import Scaler, decode

QUIET = Console(quiet=True)


def story(seed, length=20):
    """Four shots of four places: enough for clips."""
    return [image for place in range(4) for image in moving(10 * seed + place, length)]


def start_later(path, seconds):
    """Moves the start in the last entry of an MP4's edit list: frames before it are not shown."""
    with av.open(str(path)) as container:
        ticks = int(seconds / container.streams.video[0].time_base)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    (num_entries,) = struct.unpack_from(">I", data, at + 4)
    # Version 0: after version and count, entries of duration, beginning, and rate.
    entry = at + 8 + 12 * (num_entries - 1)
    (begins,) = struct.unpack_from(">i", data, entry + 4)
    struct.pack_into(">i", data, entry + 4, begins + ticks)
    path.write_bytes(data)


def write_raw(path, images):
    """A video of PNGs, which may have any size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25, options={"compression_level": "1"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def pass_through(path, directory):
    """The records of the first stages for a file; the last one may be Skipped."""
    here = context(directory)
    rows = [video_of(path, directory)]
    for stage in (shots, clips):
        rows += [] if isinstance(rows[-1], Skipped) else stage.make_worker(here)(rows[-1:])
    return rows


def run_on(path, tmp_path, until="clips"):
    """The store of a run over the path, in its first stages."""
    config = Config.model_validate({"run": {"num_workers": 1}, "videos": {"paths": [str(path)]}})
    run_stages(Context(config, tmp_path / "run"), QUIET, until=until)
    return RunStore(tmp_path / "run")


# One by one


def test_frames_that_an_edit_list_leaves_out_are_not_decoded(render):
    path = render([numbered(i) for i in range(40)])
    start_later(path, 1.0)
    frames = list(decode(path))
    images = [Scaler().scale(frame.decoded, (8, 8)) for frame in frames]
    assert [number_of(image) for image in images] == list(range(25, 40))
    assert [frame.start_seconds for frame in frames] == pytest.approx([i / 25 for i in range(15)])


@pytest.mark.parametrize("size", [(1, 1), (7680, 4320), (100, 1), (1, 100)])
def test_frames_of_any_size_pass(tmp_path, size):
    images = [plain(colour=(99 * i,) * 3, width=size[0], height=size[1]) for i in range(2)]
    video, found, skipped = pass_through(write_raw(tmp_path / "any.mov", images), tmp_path)
    assert (video.width, video.height) == size
    assert (found.num_frames, skipped.reason) == (2, "too few shots")


def test_a_stream_without_a_key_frame_is_skipped(render, tmp_path):
    """A recording that starts after the only key frame."""
    path = render(story(0), "recorded.ts", gop=999)
    with av.open(str(path)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.pos]
    path.write_bytes(path.read_bytes()[begins[10] :])
    *_, skipped = pass_through(path, tmp_path)
    assert (skipped.stage, skipped.reason) == ("shots", "no frame decodes")


# All together


NAMES = (
    "plain.mp4",
    'it\'s "quoted".mp4',
    "two\nlines.mp4",
    "ünï 映画 \u2028 🎬.mp4",
    " %d *?[a]{b}.mp4",
    "-rf.mp4",
)


@pytest.fixture
def folder(render, tmp_path, silence):
    """Videos with clips under odd names, a copy, files that are not videos, and a link in a circle."""
    place = tmp_path / "videos"
    place.mkdir()
    for number, name in enumerate(NAMES):
        render(story(number), f"videos/{name}")
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
