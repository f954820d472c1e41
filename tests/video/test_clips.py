"""Which videos are rich in time, their clips, their key frames, and features of a checkpoint."""

import math

import numpy as np
import pytest
import torch
from video_material import context, moving, place, plain, video_of

from tempo.config import ClipsConfig
from tempo.core.records import Clips, Shot, Skipped
from tempo.engine.types import SkipRecord
from tempo.model.loading import repair_torchvision
from tempo.video import clips, shots
from tempo.video.clips import choose_key_frames, find_clips, group_shots, load_embedder
from tempo.video.decode import Scaler, decode
from tempo.video.frames import FrameStore
from tempo.video.shots import measure_sharpness

repair_torchvision()

from transformers import BertConfig, BertModel, SiglipConfig, SiglipImageProcessor, SiglipModel  # noqa: E402


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


def test_a_clip_spans_a_rejected_shot():
    whole = in_places([0, 9, 0, 1, 2, 3])
    found = find_clips(whole[:1] + whole[2:], ClipsConfig())
    assert (found[0].start_seconds, found[0].end_seconds, found[0].num_shots) == (0, 9, 2)


@pytest.mark.parametrize(
    ("places", "frames", "reason", "detail"),
    [
        ([], 24, "too few shots", "0 usable shots, min_shots is 4"),
        ([0, 1, 2], 24, "too few shots", "3 usable shots, min_shots is 4"),
        (range(33), 24, "too many shots", "33 usable shots, max_shots is 32"),
        ([0, 1, 2, 3], 129, "shot too long", "a shot of 16.12 seconds, max_shot_seconds is 16"),
        ([0, 0, 1, 2], 24, "too few clips", "3 clips, min_clips is 4"),
    ],
)
def test_a_video_that_is_not_rich_in_time_is_skipped(places, frames, reason, detail):
    assert refused(places, frames=frames) == (reason, detail)


@pytest.mark.parametrize(("places", "frames"), [(range(32), 24), (range(4), 128)])
def test_a_video_at_the_limits_is_taken(places, frames):
    assert len(find_clips(in_places(places, frames=frames))) == len(places)


@pytest.mark.parametrize(
    ("places", "detail"),
    [
        # 5 clips: a group may be one of them.
        ([0, 1, 0, 2, 3], "group 0 has 2 of 5 clips, at most 1 are allowed"),
        ([0, 1, 0, 2, 3, 4], None),
        ([5, 0, 1, 0, 2, 0, 3, 4], "group 1 has 3 of 8 clips, at most 2 are allowed"),
        ([5, 0, 1, 0, 2, 0, 3, 4, 6], None),
        # However long the video is, a group may not come four times.
        ([0, 1, 0, 2, 0, 3, 0, *range(4, 12)], "group 0 has 4 of 15 clips, at most 3 are allowed"),
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
    assert (
        refused(places, group_share=2, max_group_clips=2)[1]
        == "group 0 has 3 of 6 clips, at most 2 are allowed"
    )
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
    return render([image for seed in range(4) for image in moving(seed, 30)])


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
    wanted = [image for seed in range(4) for image in moving(seed, 30)]
    for image, number in zip(images, [n for clip in result.clips for n in clip.key_frames], strict=True):
        errors = [np.abs(image.astype(int) - candidate).mean() for candidate in wanted]
        assert int(np.argmin(errors)) == number
    assert len(store.read(result.id).images) == 5


def test_a_second_run_over_the_same_directory_changes_nothing(four_places, tmp_path):
    row, result = run(four_places, tmp_path)
    before = FrameStore(tmp_path / "frames").path(result.id).read_bytes()
    assert clips.make_worker(context(tmp_path))([row])[0] == result
    assert FrameStore(tmp_path / "frames").path(result.id).read_bytes() == before


def test_a_skipped_video_is_recorded_with_its_figure(render, tmp_path):
    row, skipped = run(render([plain(), *moving(0, 30)]), tmp_path)
    assert isinstance(skipped, Skipped)
    assert (skipped.id, skipped.stage, skipped.reason) == (row.id, "clips", "too few shots")
    assert skipped.detail == "1 usable shots, min_shots is 4"


def test_key_frames_are_those_of_the_exact_rule(four_places, tmp_path):
    """A clip of one shot gets the best of all its frames, though the record holds few of them."""
    row, result = run(four_places, tmp_path)
    images = [Scaler().scale(frame.decoded, frame.size) for frame in decode(four_places)]
    sharpness = [round(measure_sharpness(image), 4) for image in images]
    everything = [
        shot.model_copy(update={"candidates": numbers, "sharpness": tuple(sharpness[n] for n in numbers)})
        for shot in row.shots
        for numbers in [tuple(range(shot.start_frame, shot.end_frame))]
    ]
    assert result.clips == find_clips(everything)


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.ts", "bare.h264"])
def test_key_frames_are_the_same_in_every_container(render, tmp_path, name):
    """Some are found by their time stamps; a raw stream has none."""
    row, result = run(render([image for seed in range(4) for image in moving(seed, 30)], name), tmp_path)
    images = FrameStore(tmp_path / "frames").read_key_frames(result.id)
    frames = {frame.index: Scaler().scale(frame.decoded, (96, 64)) for frame in decode(row.path)}
    for image, number in zip(images, [n for clip in result.clips for n in clip.key_frames], strict=True):
        assert np.abs(image.astype(int) - frames[number]).mean() < 4


def test_other_limits_give_other_clips_of_the_same_shots(render, tmp_path):
    """The first place is seen twice, the second time from further left."""
    images = [image for seed in (0, 0, 1, 2, 3) for image in moving(seed, 30)]
    images[30:60] = [np.roll(image, 8, axis=1) for image in images[30:60]]
    loose, strict = (context(tmp_path, clips={"similarity": limit}) for limit in (0.6, 1.0))
    row = shots.make_worker(loose)([video_of(render(images), tmp_path)])[0]
    store = FrameStore(tmp_path / "frames")
    for limits, num_clips in ((loose, 4), (strict, 5)):
        assert len(clips.make_worker(limits)([row])[0].clips) == num_clips
        assert len(store.read_key_frames(row.id)) == 2 * num_clips


def gone(path):
    path.unlink()


def changed(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(("spoil", "reason"), [(gone, "no such file"), (changed, "file changed")])
def test_a_file_that_went_or_changed_before_its_key_frames_were_read_is_skipped(
    four_places, tmp_path, spoil, reason
):
    row, _ = run(four_places, tmp_path)
    (tmp_path / "other.mp4").touch()
    spoil(four_places)
    skipped = clips.make_worker(context(tmp_path))([row])[0]
    assert (skipped.stage, skipped.reason) == ("clips", reason)
    assert FrameStore(tmp_path / "frames").has(row.id), "training frames stay: instructions may ask about it"


# Key frames


def chosen(sharpness, candidates=None):
    """Key frames of a clip, given the sharpness of all frames; all are candidates unless some are given."""
    numbers = range(len(sharpness)) if candidates is None else candidates
    return choose_key_frames(len(sharpness), {number: sharpness[number] for number in numbers})


def test_key_frames_of_even_sharpness_are_the_centres():
    assert chosen([1.0] * 30) == (10, 20)
    assert chosen([0.0] * 30)[0] <= 15


def test_the_window_is_a_sixth_of_the_clip_to_either_side():
    for outside in (4, 16, 14, 26):
        sharpness = [1.0] * 30
        sharpness[outside] = 1000.0
        assert chosen(sharpness) == (10, 20) if outside in (4, 26) else outside in chosen(sharpness)
    for inside in (5, 15, 25):
        sharpness = [1.0] * 30
        sharpness[inside] = 1000.0
        assert inside in chosen(sharpness)


def test_the_window_falls_off_as_a_cosine():
    """Two frames from the centre, radius 5: a weight of cos(pi / 6)."""
    weight = math.cos(math.pi / 6)
    for factor, expected in ((0.99, 10), (1.01, 12)):
        sharpness = [1.0] * 30
        sharpness[12] = factor / weight
        # Its neighbours are blurred, so that only the centre competes.
        sharpness[9] = sharpness[11] = 0.5
        assert chosen(sharpness)[0] == expected


@pytest.mark.parametrize("num_frames", range(1, 60))
def test_key_frames_are_two_different_frames_of_the_clip_in_order(num_frames):
    rng = np.random.default_rng(num_frames)
    for sharpness in (rng.random(num_frames), np.eye(num_frames)[num_frames // 2] * 99 + 0.1):
        first, second = chosen(sharpness.tolist())
        assert 0 <= first <= second < num_frames
        assert first < second or num_frames == 1


def test_only_candidates_are_chosen():
    sharpness = [1.0] * 30
    sharpness[10] = sharpness[20] = 99.0
    assert chosen(sharpness, [8, 9, 21, 23]) == (9, 21)


def test_where_a_window_holds_no_candidate_the_nearest_is_chosen():
    assert chosen([1.0] * 30, [0, 28, 29]) == (0, 28)
    assert chosen([1.0] * 30, [29]) == (29, 29)


# Features of a checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A SigLIP of a few thousand random weights."""
    folder = tmp_path_factory.mktemp("siglip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 32, "projection_size": 16},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_one_row_for_each_image_whatever_the_batch(checkpoint, monkeypatch):
    embed = load_embedder(checkpoint)
    images = [place(seed) for seed in (0, 1, 0, 2, 3)]
    features = embed(images)
    assert features.shape == (5, 16)
    assert np.allclose(features[0], features[2], atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-3)
    monkeypatch.setattr(clips, "EMBEDDER_BATCH", 2)
    assert np.allclose(embed(images), features, atol=1e-5)


def test_shots_are_grouped_by_the_features_of_their_middles(checkpoint, render, tmp_path, monkeypatch):
    path = render([image for seed in range(4) for image in moving(seed, 30)])
    settings = context(tmp_path, clips={"features": checkpoint, "similarity": 1.0})
    row = shots.make_worker(settings)([video_of(path, tmp_path)])[0]
    seen = []

    def same(embed):
        return lambda images: seen.append(len(images)) or np.eye(4)[[0, 1, 2, 2]] + 0 * embed(images)[:, :1]

    monkeypatch.setattr(clips, "load_embedder", lambda *named: same(load_embedder(*named)))
    worker = clips.make_worker(context(tmp_path, clips={"features": checkpoint, "min_clips": 3}))
    result = worker([row])[0]
    assert seen == [4]
    assert isinstance(result, Clips)
    assert [clip.num_shots for clip in result.clips] == [1, 1, 2]
    assert len(FrameStore(tmp_path / "frames").read_key_frames(result.id)) == 6


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"clips\.features .*nowhere.* cannot be loaded"):
        load_embedder(str(tmp_path / "nowhere"))


def test_a_model_without_image_features_is_named(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=8)).save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel; give a SigLIP or CLIP checkpoint"):
        load_embedder(str(tmp_path))
