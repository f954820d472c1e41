"""Which videos are rich in time, their clips, their key frames, and features of a checkpoint."""

import math

import numpy as np
import pytest
import torch
from video_material import context, moving, place, video_of

from tempo.config import ClipsConfig
from tempo.core.records import Clips, Shot
from tempo.engine.types import SkipRecord
from tempo.model.loading import repair_torchvision
from tempo.video import clips, shots
from tempo.video.clips import choose_key_frames, find_clips, group_shots, load_embedder
from tempo.video.decode import Scaler, decode
from tempo.video.frames import FrameStore
from tempo.video.shots import measure_sharpness

repair_torchvision()

from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel  # noqa: E402


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


def cos(degrees):
    return math.cos(math.radians(degrees))


@pytest.mark.parametrize(
    ("degrees", "similarity", "expected"),
    [
        ([0, 90, 10, 100], 0.8, [0, 1, 0, 1]),
        ([0], 0.8, [0]),
        ([0, 30], cos(30) - 0.001, [0, 0]),
        ([0, 30], cos(30) + 0.001, [0, 1]),
        # Equal to the limit is not enough.
        ([0, 60], 0.5, [0, 1]),
        # 0 and 20 merge; the similarity to 50 is then the plain mean of two cosines.
        ([0, 20, 50], (cos(50) + cos(30)) / 2 - 0.001, [0, 0, 0]),
        ([0, 20, 50], (cos(50) + cos(30)) / 2 + 0.001, [0, 0, 1]),
        # {0, 5} then takes in 12: each merge is the plain mean, whatever the sizes of the groups.
        ([0, 5, 12, 45], ((cos(45) + cos(40)) / 2 + cos(33)) / 2 - 0.001, [0, 0, 0, 0]),
        # The most similar pair goes first: 50 joins 60 before 0 and 25 can reach it.
        ([0, 25, 50, 60], 0.9, [0, 0, 1, 1]),
    ],
)
def test_shots_are_grouped_when_they_are_more_similar_than_the_limit(degrees, similarity, expected):
    # The lengths of descriptors have no effect.
    rows = [(n * cos(angle), n * math.sin(math.radians(angle))) for n, angle in enumerate(degrees, 1)]
    assert group_shots(rows, similarity) == expected


def run(path, directory, **sections):
    row = shots.make_worker(context(directory, **sections))([video_of(path, directory)])[0]
    return row, clips.make_worker(context(directory, **sections))([row])[0]


@pytest.fixture
def four_places(render):
    return render([image for seed in range(4) for image in moving(seed, 30)])


def test_a_video_of_four_places_becomes_four_clips_with_their_key_frames(four_places, tmp_path):
    row, result = run(four_places, tmp_path)
    assert isinstance(result, Clips)
    assert (result.id, result.path) == (row.id, str(four_places))
    assert result.duration_seconds == row.duration_seconds
    images = FrameStore(tmp_path / "frames").read_key_frames(result.id)
    assert images.shape == (8, 64, 96, 3)
    wanted = [image for seed in range(4) for image in moving(seed, 30)]
    for image, number in zip(images, [n for clip in result.clips for n in clip.key_frames], strict=True):
        errors = [np.abs(image.astype(int) - candidate).mean() for candidate in wanted]
        assert int(np.argmin(errors)) == number


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


# Key frames


@pytest.mark.parametrize(
    ("sharpness", "expected"),
    [
        ({}, (10, 20)),
        # The window reaches a sixth of the clip to either side.
        ({4: 1000.0}, (10, 20)),
        ({5: 1000.0}, (5, 20)),
        ({15: 1000.0}, (15, 20)),
        ({25: 1000.0}, (10, 25)),
        ({26: 1000.0}, (10, 20)),
        # It falls off as a cosine: two frames from the centre the weight is cos(pi / 6).
        ({9: 0.5, 11: 0.5, 12: 0.99 / math.cos(math.pi / 6)}, (10, 20)),
        ({9: 0.5, 11: 0.5, 12: 1.01 / math.cos(math.pi / 6)}, (12, 20)),
    ],
)
def test_key_frames_are_sharp_and_close_to_the_thirds(sharpness, expected):
    assert choose_key_frames(30, dict.fromkeys(range(30), 1.0) | sharpness) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"), [([8, 9, 21, 23], (9, 21)), ([0, 28, 29], (0, 28)), ([29], (29, 29))]
)
def test_only_candidates_are_chosen_the_nearest_if_a_window_holds_none(candidates, expected):
    assert choose_key_frames(30, dict.fromkeys(candidates, 1.0)) == expected


@pytest.mark.parametrize("num_frames", range(1, 60))
def test_key_frames_are_two_different_frames_of_the_clip_in_order(num_frames):
    rng = np.random.default_rng(num_frames)
    for sharpness in (rng.random(num_frames), np.eye(num_frames)[num_frames // 2] * 99 + 0.1):
        first, second = choose_key_frames(num_frames, dict(enumerate(sharpness.tolist())))
        assert 0 <= first <= second < num_frames
        assert first < second or num_frames == 1


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


def test_one_row_for_each_image_whatever_the_batch(checkpoint):
    embed = load_embedder(checkpoint)
    images = [place(seed) for seed in (0, 1, 0, 2, 3)]
    features = embed(images)
    assert features.shape == (5, 16)
    assert np.allclose(features[0], features[2], atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-3)
    assert np.allclose(np.concatenate([embed(images[:2]), embed(images[2:])]), features, atol=1e-5)


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
