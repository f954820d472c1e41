"""Finding the videos of a benchmark: names, endings, archives, folders of images, and parts of videos."""

from __future__ import annotations

import shutil
import tempfile

import pytest
from published import write_table, write_video

from tempo.config import FramesConfig
from tempo.evaluation.public.data import Data


def levels(footage, **options):
    """The grey level of each frame."""
    frames = footage.sample(FramesConfig(fps=8.0), **options)
    return [round(float(image.mean())) for image in frames.images], frames.seconds.tolist()


@pytest.mark.parametrize(
    ("files", "name", "stem"),
    [
        (["a/v.mp4"], "v.mp4", "a/v"),
        (["a/v.MKV"], "v.mp4", "a/v"),
        (["a/v.mp4", "b/v.mp4"], "b/v.mp4", "b/v"),
        (["data/AbC.mp4", "data/aBc.mp4"], "aBc", "data/aBc"),
        (["a/X_start_1.0_end_5.0.mp4"], "X_start_1.0_end_5.0", "a/X_start_1.0_end_5.0"),
        (["a/folder"], "a/folder", "a/folder"),
        # Only whole parts of a path count, and other folders do not.
        (["a/xv.mp4"], "v.mp4", None),
        (["a/v.mp4"], "b/v.mp4", None),
        ([".cache/v.mp4"], "v.mp4", None),
    ],
)
def test_videos_are_found_by_the_end_of_their_path(tmp_path, files, name, stem):
    for file in files:
        write_video(tmp_path / file)
    found = Data(tmp_path).find(name)
    assert (found and found.stem) == stem


def test_zip_archives_are_read_in_place(tmp_path, monkeypatch):
    write_video(tmp_path / "unpacked/clips/v.mp4", 60)
    write_video(tmp_path / "unpacked/frames/f")
    shutil.make_archive(str(tmp_path / "data/a/v"), "zip", tmp_path / "unpacked")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = Data(tmp_path / "data")
    assert levels(data.find("clips/v.mp4"))[0] == pytest.approx(range(60, 68), abs=2)
    # The archive's own name counts as a folder.
    assert data.find("a/v/clips/v.mp4")
    # In the order of the numbers: 1, 2, 10.
    assert levels(data.find("frames/f"), num_frames=3)[0] == pytest.approx([20, 40, 200], abs=2)
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["a", "v.zip"]
    assert not list((tmp_path / "temporary").iterdir())


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "v.zip").write_bytes(b"half of a download")
    with pytest.raises(ValueError, match=r"v\.zip cannot be read: .*Download it again"):
        Data(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected", "seconds"),
    [
        ({"num_frames": 2}, [62, 66], [0.25, 0.75]),
        ({"num_frames": 4, "part": (0.5, 9.0)}, [64, 65, 66, 67], None),
        ({"part": (0.25, 0.5)}, [62, 63], [0.0625, 0.1875]),
    ],
)
def test_only_the_asked_part_is_shown(tmp_path, options, expected, seconds):
    write_video(tmp_path / "v.mp4", 60)
    found, times = levels(Data(tmp_path).find("v"), **options)
    assert found == pytest.approx(expected, abs=1)
    assert seconds is None or times == pytest.approx(seconds, abs=1e-3)


def test_a_snapshot_of_the_hub_has_a_revision_and_tables_have_hashes(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / commit
    write_table(tmp_path / "blob.json", [{"x": 1}, {"x": None, "y": 2}])
    snapshot.mkdir(parents=True)
    (snapshot / "t.json").symlink_to(tmp_path / "blob.json")
    data = Data(snapshot)
    assert [dict(row) for row in data.rows(("t.json",), iter)] == [{"x": 1}, {"y": 2}]
    assert data.revision == commit
    assert [*data.hashes] == ["t.json"]
    assert Data(tmp_path / "datasets--a--b").revision == ""


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "t.json").write_text("[{")
    with pytest.raises(ValueError, match=r"t\.json cannot be read"):
        list(Data(tmp_path).rows(("t.json",), iter))
