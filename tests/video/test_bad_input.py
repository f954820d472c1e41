"""Videos as they are in the wild, all in one folder: each ends as clips or as a drop that says why."""

import os
import struct
from pathlib import Path

import av
import cv2
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
    return [picture for place in range(4) for picture in moving(10 * seed + place, length)]


def start_later(path, seconds):
    """Moves the beginning in the last entry of an MP4's edit list: what was before it is not shown."""
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


def write_raw(path, pictures):
    """A film of PNGs, which may have any size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25, options={"compression_level": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def pass_through(path, directory):
    """What the first stages make of a file, in this process: a row of each, the last one perhaps a drop."""
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


def test_what_an_edit_list_leaves_out_is_not_seen(render):
    path = render([numbered(i) for i in range(40)])
    start_later(path, 1.0)
    frames = list(decode(path))
    images = [Scaler().scale(frame.decoded, (8, 8)) for frame in frames]
    assert [number_of(image) for image in images] == list(range(25, 40))
    assert [frame.start_seconds for frame in frames] == pytest.approx([i / 25 for i in range(15)])


def test_187_pictures_a_second_keep_their_times_and_cuts(render, tmp_path):
    _, video, *_ = pass_through(render(story(1, length=150), fps=187), tmp_path)
    assert video.duration_seconds == pytest.approx(600 / 187, abs=0.01)
    assert [shot.start_frame for shot in video.shots] == [0, 150, 300, 450]
    assert video.shots[1].start_seconds == pytest.approx(150 / 187, abs=0.001)


@pytest.mark.parametrize("size", [(1, 1), (7680, 4320), (100, 1), (1, 100)])
def test_pictures_of_any_size_pass(tmp_path, size):
    pictures = [plain(colour=(99 * i,) * 3, width=size[0], height=size[1]) for i in range(2)]
    video, found, drop = pass_through(write_raw(tmp_path / "any.mov", pictures), tmp_path)
    assert (video.width, video.height) == size
    assert (found.num_frames, drop.reason) == (2, "too few shots")


def test_a_stream_without_a_key_frame_is_dropped(render, tmp_path):
    """Recorded from the middle: the only key frame was before that, so there is nothing to begin with."""
    path = render(story(0), "recorded.ts", gop=999)
    with av.open(str(path)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.pos]
    path.write_bytes(path.read_bytes()[begins[10] :])
    *_, drop = pass_through(path, tmp_path)
    assert (drop.stage, drop.reason) == ("shots", "cannot be decoded")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_still_picture_is_dropped(tmp_path, ending):
    """Named like a video it is read as a film of one picture."""
    path = tmp_path / "still.mp4"
    done, data = cv2.imencode(ending, plain())
    assert done
    path.write_bytes(bytes(data))
    assert pass_through(path, tmp_path)[-1].reason == "too few shots"


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
    """Videos with clips under odd names, a copy, what is none, and a link in a circle."""
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
    drops = [(paths.get(drop.id, drop.id), drop.reason) for drop in store.read(SKIPPED, Skipped)]
    kept = [(row.path, None) for row in store.read("clips", Clips)]
    found = [(Path(path).name, reason) for path, reason in [*drops, *kept]]
    assert len(dict(found)) == len(found), "a file ended twice"
    return dict(found)


BAD = {
    "zero.mp4": "empty file",
    "text.mp4": "cannot be opened",
    "cut.mp4": "cannot be opened",
    "sound.mp4": "no video stream",
    "dead.mp4": "no such file",
    r"caf\udce9.mp4": "name is not UTF-8",
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


def test_files_that_change_or_go_between_stages_are_dropped_and_the_others_stay(folder, tmp_path):
    changed, gone, late = (folder / name for name in (NAMES[1], NAMES[2], NAMES[3]))
    run_on(folder, tmp_path, until="videos")
    changed.write_bytes(changed.read_bytes() + b"more")
    gone.unlink()
    run_on(folder, tmp_path, until="shots")
    late.unlink()
    found = endings(run_on(folder, tmp_path))
    lost = {changed.name: "file changed", gone.name: "no such file", late.name: "no such file"}
    assert found == dict.fromkeys(NAMES) | BAD | lost


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"another")])
def test_a_copy_stands_in_for_a_file_that_changes_or_goes(folder, tmp_path, lose):
    run_on(folder, tmp_path, until="videos")
    lose(folder / "copy.mp4")
    store = run_on(folder, tmp_path)
    assert str(folder / "plain.mp4") in {row.path for row in store.read("clips", Clips)}
    assert {drop.stage for drop in store.read(SKIPPED, Skipped)} == {"videos"}


def test_a_content_all_of_whose_copies_went_is_dropped_once(folder, tmp_path):
    run_on(folder, tmp_path, until="videos")
    for name in ("copy.mp4", "plain.mp4"):
        (folder / name).unlink()
    store = run_on(folder, tmp_path)
    late = [drop for drop in store.read(SKIPPED, Skipped) if drop.stage != "videos"]
    assert [(drop.stage, drop.reason) for drop in late] == [("shots", "no such file")]


def test_a_folder_that_went_is_one_message(folder, tmp_path):
    run_on(folder, tmp_path, until="videos")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"videos\.paths: .* does not exist"):
        run_on(folder, tmp_path)


def test_a_second_run_in_the_same_directory_is_refused_and_touches_nothing(folder, tmp_path):
    with RunStore(tmp_path / "run").lock(), pytest.raises(ValueError, match="in use by another tempo run"):
        run_on(folder, tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
