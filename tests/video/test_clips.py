import math

import numpy as np
import pytest
from video_material import context, moving, number_of, numbered, plain, video_of

from tempo.config import ClipsConfig
from tempo.core.records import Clips, Shot, Skipped
from tempo.engine.types import SkipRecord
from tempo.video import album, clips, shots
from tempo.video.decoding import decode
from tempo.video.frames import FrameStore
from tempo.video.grouping import find_clips, group_shots
from tempo.video.pictures import measure_sharpness
from tempo.video.shrinking import Shrinker
from tempo.video.survey import ANALYSIS_PIXELS


def axis(place):
    """A descriptor that is at right angles to that of any other place."""
    return tuple(1.0 if index == place else 0.0 for index in range(40))


def in_places(places, *, frames=24, fps=8.0):
    """Shots of equal length, one for each place."""
    return tuple(
        Shot(
            start_frame=index * frames,
            end_frame=(index + 1) * frames,
            start_seconds=index * frames / fps,
            end_seconds=(index + 1) * frames / fps,
            grey_range=99,
            descriptor=axis(place),
            candidates=tuple(range(index * frames, (index + 1) * frames)),
            sharpness=(1.0,) * frames,
        )
        for index, place in enumerate(places)
    )


def refused(places, *, frames=24, **config):
    with pytest.raises(SkipRecord) as caught:
        find_clips(in_places(places, frames=frames), ClipsConfig(**config))
    return caught.value.reason, caught.value.detail


def test_each_place_becomes_a_clip():
    found = find_clips(in_places([0, 1, 2, 3]), ClipsConfig())
    assert [(clip.group, clip.first_shot, clip.num_shots) for clip in found] == [(i, i, 1) for i in range(4)]
    assert [(clip.start_seconds, clip.end_seconds) for clip in found] == [(0, 3), (3, 6), (6, 9), (9, 12)]


def test_consecutive_shots_of_a_group_become_one_clip():
    found = find_clips(in_places([7, 7, 1, 2, 2, 2, 3, 4, 5, 7]), ClipsConfig())
    assert [(clip.group, clip.first_shot, clip.num_shots) for clip in found] == [
        (0, 0, 2),
        (1, 2, 1),
        (2, 3, 3),
        (3, 6, 1),
        (4, 7, 1),
        (5, 8, 1),
        (0, 9, 1),
    ]
    assert (found[2].start_seconds, found[2].end_seconds) == (9.0, 18.0)


def test_a_clip_reaches_over_a_shot_that_the_shot_filter_took_out():
    whole = in_places([0, 9, 0, 1, 2, 3])
    found = find_clips(whole[:1] + whole[2:], ClipsConfig())
    assert (found[0].start_seconds, found[0].end_seconds, found[0].num_shots) == (0, 9, 2)


def test_too_few_and_too_many_shots():
    assert refused([0, 1, 2]) == ("too few shots", "3 usable shots, min_shots is 4")
    assert refused(range(33)) == ("too many shots", "33 usable shots, max_shots is 32")
    assert refused([]) == ("too few shots", "0 usable shots, min_shots is 4")
    assert len(find_clips(in_places(range(32)), ClipsConfig())) == 32


def test_a_shot_that_is_too_long():
    assert refused([0, 1, 2, 3], frames=129) == (
        "shot too long",
        "a shot of 16.12 seconds, max_shot_seconds is 16",
    )
    assert len(find_clips(in_places([0, 1, 2, 3], frames=128), ClipsConfig())) == 4


def test_too_few_clips():
    assert refused([0, 0, 1, 2]) == ("too few clips", "3 clips, min_clips is 4")


@pytest.mark.parametrize(
    ("places", "detail"),
    [
        # 5 clips: a group may be one of them.
        ([0, 1, 0, 2, 3], "group 0 is 2 of 5 clips, at most 1 may be"),
        ([0, 1, 0, 2, 3, 4], None),
        ([5, 0, 1, 0, 2, 0, 3, 4], "group 1 is 3 of 8 clips, at most 2 may be"),
        ([5, 0, 1, 0, 2, 0, 3, 4, 6], None),
        # However long the video is, a group may not come four times.
        ([0, 1, 0, 2, 0, 3, 0, *range(4, 12)], "group 0 is 4 of 15 clips, at most 3 may be"),
        ([0, 1, 0, 2, 0, *range(4, 12)], None),
    ],
)
def test_a_group_may_come_back_so_often(places, detail):
    if detail is None:
        assert len(find_clips(in_places(places), ClipsConfig())) == len(places)
    else:
        assert refused(places) == ("group comes back too often", detail)


def test_the_limits_are_the_configured_ones():
    places = [0, 1, 0, 2, 0, 1]
    loose = ClipsConfig(max_group_clips=3, group_share=2, min_clips=6)
    assert len(find_clips(in_places(places), loose)) == 6
    assert refused(places, group_share=2, max_group_clips=2)[1] == "group 0 is 3 of 6 clips, at most 2 may be"
    assert refused(places, group_share=2, min_clips=7)[0] == "too few clips"


def turned(*degrees):
    return [(math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in degrees]


def test_shots_are_grouped_when_they_are_more_alike_than_the_limit():
    assert group_shots(turned(0, 90, 10, 100), 0.8) == [0, 1, 0, 1]
    cosine = math.cos(math.radians(30))
    assert group_shots(turned(0, 30), cosine - 0.001) == [0, 0]
    assert group_shots(turned(0, 30), cosine + 0.001) == [0, 1]


def test_a_similarity_equal_to_the_limit_does_not_merge():
    assert group_shots([(1, 0), (0.6, 0.8)], 0.6) == [0, 1]


def test_a_merged_row_is_the_plain_mean_of_the_two():
    """0 and 20 degrees merge; then the similarity to 50 degrees is the mean of cos 50 and cos 30."""
    mean = (math.cos(math.radians(50)) + math.cos(math.radians(30))) / 2
    assert group_shots(turned(0, 20, 50), mean - 0.001) == [0, 0, 0]
    assert group_shots(turned(0, 20, 50), mean + 0.001) == [0, 0, 1]


def test_the_mean_does_not_weigh_groups_by_size():
    """{0, 5} then takes in 12 degrees; each merge halves what was there before, whatever its size."""
    cosines = [math.cos(math.radians(45 - angle)) for angle in (0, 5, 12)]
    plain_mean = ((cosines[0] + cosines[1]) / 2 + cosines[2]) / 2
    by_size = sum(cosines) / 3
    assert plain_mean > by_size
    limit = (plain_mean + by_size) / 2
    assert group_shots(turned(0, 5, 12, 45), limit) == [0, 0, 0, 0]


def test_the_most_similar_pair_goes_first():
    """50 degrees joins its neighbour at 60 before the pair at 0 and 25 can reach for it."""
    assert group_shots(turned(0, 25, 50, 60), 0.9) == [0, 0, 1, 1]


def test_groups_are_numbered_as_they_first_appear():
    assert group_shots([axis(p) for p in [9, 3, 9, 1, 3]], 0.8) == [0, 1, 0, 2, 1]


def test_one_shot_is_one_group_and_a_descriptor_of_zeros_harms_nothing():
    assert group_shots([(1.0, 0.0)], 0.8) == [0]
    assert group_shots([(0.0, 0.0), (1.0, 0.0)], 0.8) == [0, 1]


def test_a_limit_below_every_similarity_ends_in_one_group():
    assert group_shots([axis(p) for p in range(6)], -0.5) == [0] * 6


def test_grouping_does_not_depend_on_the_length_of_descriptors():
    rows = np.random.default_rng(0).normal(size=(12, 6))
    scaled = rows * np.arange(1, 13)[:, None]
    assert group_shots(rows.tolist(), 0.3) == group_shots(scaled.tolist(), 0.3)


def test_key_frames_count_from_the_start_of_the_video():
    found = find_clips(in_places([0, 1, 2, 3], frames=30), ClipsConfig())
    assert [clip.key_frames for clip in found] == [(10, 20), (40, 50), (70, 80), (100, 110)]


def run(path, directory, **sections):
    row = shots.make_worker(context(directory, **sections))([video_of(path, directory)])[0]
    return row, clips.make_worker(context(directory, **sections))([row])[0]


@pytest.fixture
def four_places(render):
    return render([picture for seed in range(4) for picture in moving(seed, 30)])


def test_a_video_of_four_places_becomes_four_clips_with_their_key_frames(four_places, tmp_path):
    row, result = run(four_places, tmp_path)
    assert isinstance(result, Clips)
    assert (result.id, result.path, result.duration_seconds) == (
        row.id,
        str(four_places),
        row.duration_seconds,
    )
    store = FrameStore(tmp_path / "frames")
    images = store.read_key_frames(result.id)
    assert images.shape == (8, 64, 96, 3)
    wanted = [picture for seed in range(4) for picture in moving(seed, 30)]
    for image, number in zip(images, [n for clip in result.clips for n in clip.key_frames], strict=True):
        errors = [np.abs(image.astype(int) - candidate).mean() for candidate in wanted]
        assert int(np.argmin(errors)) == number
    assert len(store.read(result.id)[0]) == 5


def test_the_same_video_gives_the_same_bytes(four_places, tmp_path):
    results = [run(four_places, tmp_path / name)[1] for name in "ab"]
    assert results[0].model_dump_json() == results[1].model_dump_json()
    files = [FrameStore(tmp_path / name / "frames").path(results[0].id).read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_second_run_over_the_same_directory_changes_nothing(four_places, tmp_path):
    row, result = run(four_places, tmp_path)
    before = FrameStore(tmp_path / "frames").path(result.id).read_bytes()
    assert clips.make_worker(context(tmp_path))([row])[0] == result
    assert FrameStore(tmp_path / "frames").path(result.id).read_bytes() == before


def test_key_frames_are_the_very_frames_of_these_numbers(render, tmp_path):
    """Shots of places apart in time show numbers; the rule may choose from all their candidates."""
    pictures = [numbered(i) for i in range(40)]
    for index, picture in enumerate(pictures):
        picture[:, :60] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)][index // 10]
    path = render(pictures, fps=10)
    _, result = run(path, tmp_path, shots={"threshold": 9.0}, clips={"similarity": 1.0})
    images = FrameStore(tmp_path / "frames").read_key_frames(result.id)
    found = [number_of(image[:, 70:]) for image in images]
    assert found == [number for clip in result.clips for number in clip.key_frames]
    assert [number // 10 for number in found] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_key_frames_are_those_of_the_exact_rule(four_places, tmp_path):
    row, result = run(four_places, tmp_path)
    shrinker = Shrinker(ANALYSIS_PIXELS, stored_pixels=64)
    sharpness = [round(measure_sharpness(shrinker.shrink(picture)[0]), 4) for picture in decode(four_places)]
    everything = [
        shot.model_copy(update={"candidates": numbers, "sharpness": tuple(sharpness[n] for n in numbers)})
        for shot in row.shots
        for numbers in [tuple(range(shot.start_frame, shot.end_frame))]
    ]
    exact = find_clips(everything, ClipsConfig())
    assert result.clips == exact


def test_a_checkpoint_that_is_named_later_gets_the_middles_it_needs(four_places, tmp_path, monkeypatch):
    """The shots stage keeps none for the embedded descriptor."""
    seen = []
    monkeypatch.setattr(clips, "load_embedder", lambda *_: lambda jpegs: seen.append(len(jpegs)) or np.eye(4))
    row = shots.make_worker(context(tmp_path))([video_of(four_places, tmp_path)])[0]
    result = clips.make_worker(context(tmp_path, clips={"features": "named"}))([row])[0]
    assert seen == [4]
    assert len(result.clips) == 4


def test_key_frames_that_another_threshold_asks_for_are_made_in_another_pass(render, tmp_path):
    """The first place is seen twice, the second time from further left."""
    pictures = [picture for seed in (0, 0, 1, 2, 3) for picture in moving(seed, 30)]
    pictures[30:60] = [np.roll(picture, 8, axis=1) for picture in pictures[30:60]]
    loose, strict = (context(tmp_path, clips={"similarity": limit}) for limit in (0.6, 1.0))
    row = shots.make_worker(loose)([video_of(render(pictures), tmp_path)])[0]
    store = FrameStore(tmp_path / "frames")
    assert len(store.read_looks(row.id).candidates) == 8
    assert len(clips.make_worker(strict)([row])[0].clips) == 5
    assert len(store.read_key_frames(row.id)) == 10


def test_pictures_of_a_shot_that_is_too_long_are_kept_once_it_is_allowed(four_places, tmp_path):
    strict = context(tmp_path, clips={"max_shot_seconds": 0.5})
    row = shots.make_worker(strict)([video_of(four_places, tmp_path)])[0]
    assert not (tmp_path / "frames" / "looks").exists()
    assert clips.make_worker(strict)([row])[0].reason == "shot too long"
    assert len(clips.make_worker(context(tmp_path))([row])[0].clips) == 4


def test_a_clip_of_two_shots_has_its_key_frames_from_the_candidates_of_both(render, tmp_path):
    order = (0, 0, 1, 2, 3)
    pictures = [picture for seed in order for picture in moving(seed, 30)]
    for index in range(15, 30):
        pictures[index] = np.ascontiguousarray(pictures[index][:, ::-1])
    row, result = run(render(pictures), tmp_path)
    images = FrameStore(tmp_path / "frames").read_key_frames(result.id)
    assert len(images) == 2 * len(result.clips)
    candidates = {number for shot in row.shots for number in shot.candidates}
    assert candidates >= {number for clip in result.clips for number in clip.key_frames}


def test_looks_are_discarded_once_clips_are_made_or_refused(four_places, render, tmp_path):
    run(four_places, tmp_path)
    run(render(moving(5, 40), "one.mp4"), tmp_path)
    assert list((tmp_path / "frames" / "looks").iterdir()) == []
    assert len(list((tmp_path / "frames").glob("*.safetensors"))) == 2


def test_a_video_that_is_not_taken_leaves_no_looks(render, tmp_path):
    one_place = render([picture for seed in (0, 0, 0, 0) for picture in moving(seed, 30)])
    (row,) = shots.make_worker(context(tmp_path))([video_of(one_place, tmp_path)])
    assert FrameStore(tmp_path / "frames").has(row.id)
    assert not (tmp_path / "frames" / "looks").exists()


def test_pictures_that_do_not_fit_in_memory_are_the_same_as_jpegs(four_places, tmp_path, monkeypatch):
    found = []
    for num_bytes in (1 << 20, 1):
        monkeypatch.setattr(album, "ALBUM_BYTES", num_bytes)
        run(four_places, tmp_path / str(num_bytes))
        found.append(next((tmp_path / str(num_bytes) / "frames").glob("*.safetensors")).read_bytes())
    assert found[0] == found[1]


def test_looks_outlive_a_full_disk(four_places, tmp_path, monkeypatch):
    """The file may be gone when there is room again."""
    row = shots.make_worker(context(tmp_path))([video_of(four_places, tmp_path)])[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FrameStore, "write_key_frames", full)
        with pytest.raises(OSError, match="No space left"):
            clips.make_worker(context(tmp_path))([row])
    four_places.unlink()
    assert isinstance(clips.make_worker(context(tmp_path))([row])[0], Clips)


def test_clips_need_the_video_no_more(four_places, tmp_path):
    row = shots.make_worker(context(tmp_path))([video_of(four_places, tmp_path)])[0]
    four_places.unlink()
    assert isinstance(clips.make_worker(context(tmp_path))([row])[0], Clips)


def test_a_video_with_more_shots_than_can_be_kept_leaves_no_looks(four_places, tmp_path):
    run_shots = shots.make_worker(context(tmp_path, clips={"max_shots": 3, "min_shots": 1}))
    row = run_shots([video_of(four_places, tmp_path)])[0]
    assert FrameStore(tmp_path / "frames").read_looks(row.id) is None
    # The limit was raised since: the same pass is made again.
    assert isinstance(clips.make_worker(context(tmp_path))([row])[0], Clips)


def test_a_video_that_is_not_rich_in_time_is_dropped_with_its_figure(render, tmp_path):
    row, drop = run(render([plain(), *moving(0, 30)]), tmp_path)
    assert isinstance(drop, Skipped)
    assert (drop.id, drop.stage, drop.reason) == (row.id, "clips", "too few shots")
    assert drop.detail == "1 usable shots, min_shots is 4"


def test_a_file_that_changed_when_it_is_needed_again_is_dropped(four_places, tmp_path):
    row, _ = run(four_places, tmp_path)
    four_places.write_bytes(four_places.read_bytes() + b"x")
    drop = clips.make_worker(context(tmp_path))([row])[0]
    assert (drop.stage, drop.reason) == ("clips", "file changed")
