"""Clips of footage without cuts, segments of long videos, and what each rule alone costs."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console
from test_clips import in_places, run
from video_material import moving, place

from tempo.config import ClipsConfig, Config, ShotsConfig
from tempo.core.records import Clips, Moment
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.pipeline import runner
from tempo.video.frames import FrameStore, decode_jpegs
from tempo.video.selection import divide, find_clips, find_segments, is_only_reason
from tempo.video.shots import find_shots

#: No cut is ever found.
UNCUT = ShotsConfig(threshold=254.0)


def peaks(num_moments, **changes):
    """A change for each half second, 1.0 where `changes` has no other one."""
    return [changes.get(f"at{index}", 1.0) for index in range(num_moments)]


def uncut(changes):
    """One shot at 8 frames a second, with these changes."""
    (shot,) = in_places([0], frames=4 * len(changes))
    moments = [Moment(start_frame=4 * i, start_seconds=i / 2, change=c) for i, c in enumerate(changes)]
    return shot.model_copy(update={"moments": tuple(moments[1:-1])})


@pytest.mark.parametrize(
    ("changes", "min_parts", "expected"),
    [
        (peaks(20), 2, [0, 10]),
        (peaks(7, at3=9.0), 2, [0, 3.5]),
        (peaks(20, at8=9.0), 1, [0, 4, 10]),
        # At least two seconds from both ends and from each other; the largest change goes first.
        (peaks(20, at3=9.0, at17=9.0), 1, [0, 10]),
        (peaks(20, at8=8.0, at11=9.0), 1, [0, 5.5, 10]),
        (peaks(20, at8=8.0, at12=9.0), 1, [0, 4, 6, 10]),
        # Smaller changes count if there are too few parts, but not those below min_change.
        (peaks(20, at8=90.0, at14=4.0), 1, [0, 4, 10]),
        (peaks(20, at8=90.0, at14=4.0), 3, [0, 4, 7, 10]),
        (peaks(20, at8=90.0, at14=2.9), 3, [0, 4, 10]),
        # A part that is too long is divided again, unless nothing happens in it.
        (peaks(80, at10=900.0, at50=4.0), 1, [0, 5, 25, 40]),
        (peaks(80, at10=900.0, at50=2.0), 1, [0, 5, 40]),
    ],
)
def test_a_shot_is_divided_into_parts_that_differ(changes, min_parts, expected):
    parts = divide(uncut(changes), ClipsConfig(), min_parts=min_parts)
    assert [(part.start_seconds, part.end_seconds) for part in parts] == [*itertools.pairwise(expected)]
    for part in parts:
        assert (part.start_frame, part.end_frame) == (part.start_seconds * 8, part.end_seconds * 8)
        assert part.candidates == tuple(range(part.start_frame, part.end_frame))
        assert len(part.sharpness) == len(part.candidates)


def test_footage_without_cuts_becomes_clips_where_the_picture_changes(render):
    shots = find_shots(render([image for seed in range(4) for image in moving(seed, 75)]), UNCUT)
    assert len(shots) == 1
    for source in ("auto", "change"):
        found = find_clips(shots, ClipsConfig(source=source))
        assert [clip.start_seconds for clip in found] == pytest.approx([0, 3, 6, 9])
        assert [clip.group for clip in found] == [0, 1, 2, 3]
        # Found by seeking, in the clip.
        assert all(
            75 * i <= number < 75 * i + 75 for i, clip in enumerate(found) for number in clip.key_frames
        )
    with pytest.raises(SkipRecord, match="too few shots: 1 usable shots"):
        find_clips(shots, ClipsConfig(source="shots"))
    with pytest.raises(SkipRecord, match=r"nothing happens: the picture changes by \d\.\d, min_change is 3"):
        find_clips(find_shots(render([place(0)] * 250), UNCUT))


def test_only_a_shot_that_is_too_long_is_divided_and_the_others_are_still_grouped():
    long = uncut(peaks(40, at16=9.0))
    before, after = in_places([3, 3, 1]), in_places([2, 4, 1])
    # Parts belong to no group of shots, even if they look like one.
    shots = [*before, long.model_copy(update={"descriptor": before[2].descriptor}), *after]
    found = find_clips(shots)
    assert [(clip.group, clip.first_shot, clip.num_shots) for clip in found] == [
        *((0, 0, 2), (1, 2, 1), (2, 3, 1), (3, 3, 1)),
        *((4, 4, 1), (5, 5, 1), (1, 6, 1)),
    ]


@pytest.mark.parametrize(
    ("places", "config", "expected"),
    [
        (range(20), {}, {"": (0, 20)}),
        (range(40), {}, {"-1": (0, 32), "-2": (32, 40)}),
        # A shot has three seconds.
        (range(20), {"max_minutes": 0.5}, {"-1": (0, 10), "-2": (10, 20)}),
        # With two shots more, the groups 0 and 1 would have four clips.
        ([*[0, 1] * 4, *range(2, 7)], {}, {"-1": (2, 13)}),
        (range(35), {}, {"-1": (0, 32)}),
    ],
)
def test_segments_are_the_longest_sequences_of_shots_within_the_limits(places, config, expected):
    segments = find_segments(in_places(places), ClipsConfig(**config))
    bounds = {name: (found[0].first_shot, found[-1].first_shot + 1) for name, found in segments.items()}
    assert bounds == expected


@pytest.mark.parametrize(
    ("places", "config", "reason", "is_only"),
    [
        (range(40), {"segments": False}, "too many shots", True),
        # Both the number of shots and a group are in the way.
        ([*range(30), *[0, 1] * 5], {"segments": False}, "too many shots", False),
        (range(20), {"segments": False, "max_minutes": 0.5}, "too long", True),
        ([0, 1, 2], {"source": "shots"}, "too few shots", False),
        ([0, 1, 2], {"source": "shots", "min_clips": 2}, "too few shots", True),
        ([0, 1] * 4, {}, "group recurs too often", True),
        ([0, 0, 1, 1], {}, "too few clips", True),
    ],
)
def test_a_rule_alone_costs_a_video_that_would_be_kept_without_it(places, config, reason, is_only):
    shots, settings = in_places(places), ClipsConfig(**config)
    with pytest.raises(SkipRecord, match=reason) as caught:
        find_segments(shots, settings)
    assert is_only_reason(caught.value, shots, settings) is is_only


PLACES = [image for seed in range(8) for image in moving(seed, 30)]
LIMITS = {"max_shots": 4}


@pytest.mark.parametrize("max_frames", [600, 5])
def test_a_segment_has_its_own_frames_key_frames_and_times(render, tmp_path, max_frames):
    frames = {"fps": 2.0, "max_frames": max_frames}
    video, (second, first) = run(render(PLACES), tmp_path, clips=LIMITS, frames=frames)
    assert [row.id for row in (first, second)] == [f"{video.id}-1", f"{video.id}-2"]
    assert [row.name for row in (first, second)] == ["video.mp4, from 0 s", "video.mp4, from 5 s"]
    assert (first.start_seconds, second.start_seconds) == pytest.approx((0, 4.8))
    assert [row.duration_seconds for row in (first, second)] == pytest.approx([4.8, 4.8])
    assert [clip.start_seconds for clip in second.clips] == pytest.approx([0, 1.2, 2.4, 3.6])
    store = FrameStore(tmp_path / "frames")
    assert len(store.read(video.id).jpegs) == min(max_frames, 19)
    for row, seeds in ((first, range(4)), (second, range(4, 8))):
        stored, keys = store.read(row.id), store.read_key_frames(row.id)
        assert len(stored.jpegs) == min(max_frames, 10)
        assert all(0 <= seconds < 4.8 for seconds in stored.seconds)
        for image, seconds in zip(decode_jpegs(stored.jpegs), stored.seconds, strict=True):
            assert seen_place(image) == seeds[int(seconds // 1.2)]
        assert [seen_place(image) for image in keys] == [seed for seed in seeds for _ in range(2)]


def seen_place(image):
    return int(np.argmin([np.abs(image.astype(int) - place(seed)).mean() for seed in range(8)]))


def test_a_stage_that_was_killed_among_segments_resumes_and_other_files_are_counted(render, tmp_path):
    folder, directory, console = tmp_path / "videos", tmp_path / "run", Console(file=io.StringIO(), width=200)
    folder.mkdir()
    render(PLACES).rename(folder / "a.mp4")
    for name in ("film.OGG", "notes.txt", "more.txt"):
        (folder / name).touch()
    config = Config.model_validate({"videos": {"paths": [str(folder)]}, "clips": LIMITS})
    runner.run(config, directory, until="clips", console=console)
    text = "3 files with other extensions (.txt 2, .ogg 1) were ignored"
    assert text in " ".join(console.file.getvalue().split())
    store = RunStore(directory)
    whole, rows = store.path("clips").read_bytes(), store.read("clips", Clips)
    for left in ([], rows[1:]):
        store.path("clips").write_text("".join(f"{row.model_dump_json()}\n" for row in left))
        (directory / "done" / "clips.json").unlink()
        runner.run(config, directory, until="clips")
        assert store.path("clips").read_bytes() == whole
