"""Which videos are rich in time, their clips, their key frames, and features of a checkpoint."""

import math

import numpy as np
import pytest
import torch
from sample_material import context_of
from video_material import moving, place, video_of

from tempo.config import ClipsConfig
from tempo.core.records import Clips, Shot
from tempo.engine.types import SkipRecord
from tempo.model.loading import repair_torchvision
from tempo.video import clips, shots
from tempo.video.clips import load_embedder
from tempo.video.decode import Scaler, decode
from tempo.video.frames import FrameStore
from tempo.video.selection import choose_key_frames, find_clips, group_shots
from tempo.video.shots import measure_sharpness

repair_torchvision()

from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel  # noqa: E402


def in_places(places, *, frames=24):
    """Shots of equal length, one for each place, at 8 frames a second."""
    bounds = [(index * frames, (index + 1) * frames) for index in range(len(places))]
    return tuple(
        Shot(
            start_frame=start,
            end_frame=end,
            start_seconds=start / 8,
            end_seconds=end / 8,
            grey_range=99,
            # At right angles to that of any other place.
            descriptor=tuple(float(index == place) for index in range(40)),
            candidates=tuple(range(start, end)),
            sharpness=(1.0,) * frames,
        )
        for place, (start, end) in zip(places, bounds, strict=True)
    )


def test_consecutive_shots_of_a_group_become_one_clip():
    found = find_clips(in_places([7, 7, 1, 2, 2, 2, 3, 4, 5, 7]))
    assert [clip.group for clip in found] == [0, 1, 2, 3, 4, 5, 0]
    assert [clip.first_shot for clip in found] == [0, 2, 3, 6, 7, 8, 9]
    assert [clip.num_shots for clip in found] == [2, 1, 3, 1, 1, 1, 1]
    assert (found[2].start_seconds, found[2].end_seconds) == (9.0, 18.0)


@pytest.mark.parametrize(
    ("places", "frames", "refusal"),
    [
        ([], 24, "too few shots: 0 usable shots, min_shots is 4"),
        ([0, 1, 2], 24, "too few shots: 3 usable shots, min_shots is 4"),
        (range(32), 24, None),
        (range(33), 24, "too many shots: 33 usable shots, max_shots is 32"),
        (range(4), 128, None),
        (range(4), 129, "shot too long: a shot of 16.12 seconds, max_shot_seconds is 16"),
        ([0, 0, 1, 2], 24, "too few clips: 3 clips, min_clips is 4"),
        # Of 5 clips, a group may have one.
        ([0, 1, 0, 2, 3], 24, "group recurs too often: group 0 has 2 of 5 clips, at most 1 are allowed"),
        ([0, 1, 0, 2, 3, 4], 24, None),
        ([5, 0, 1, 0, 2, 0, 3, 4], 24, "group 1 has 3 of 8 clips, at most 2 are allowed"),
        ([5, 0, 1, 0, 2, 0, 3, 4, 6], 24, None),
        # However long the video is, a group may not have four.
        ([0, 1, 0, 2, 0, 3, 0, *range(4, 12)], 24, "group 0 has 4 of 15 clips, at most 3 are allowed"),
        ([0, 1, 0, 2, 0, *range(4, 12)], 24, None),
    ],
)
def test_a_video_that_is_not_rich_in_time_is_refused(places, frames, refusal):
    config = ClipsConfig(source="shots")
    if refusal is None:
        assert len(find_clips(in_places(places, frames=frames), config)) == len(places)
    else:
        with pytest.raises(SkipRecord, match=refusal):
            find_clips(in_places(places, frames=frames), config)


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
    row = shots.make_worker(context_of(directory, **sections))([video_of(path, directory)])[0]
    return row, clips.make_worker(context_of(directory, **sections))([row])[0]


FOUR_PLACES = [image for seed in range(4) for image in moving(seed, 30)]


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.ts", "bare.h264"])
def test_a_video_of_four_places_becomes_four_clips_with_their_key_frames(render, tmp_path, name):
    """Key frames are found by their time stamps; a raw stream has none."""
    row, result = run(render(FOUR_PLACES, name), tmp_path)
    assert (result.id, result.path, result.duration_seconds) == (row.id, row.path, row.duration_seconds)
    images = FrameStore(tmp_path / "frames").read_key_frames(result.id)
    for image, number in zip(images, [n for clip in result.clips for n in clip.key_frames], strict=True):
        errors = [np.abs(image.astype(int) - candidate).mean() for candidate in FOUR_PLACES]
        assert int(np.argmin(errors)) == number
    # A clip of one shot gets the best of all its frames, though the record holds few of them.
    images = [Scaler().scale(frame.decoded, frame.size) for frame in decode(row.path)]
    sharpness = [round(measure_sharpness(image), 4) for image in images]
    everything = [
        shot.model_copy(update={"candidates": numbers, "sharpness": tuple(sharpness[n] for n in numbers)})
        for shot in row.shots
        for numbers in [tuple(range(shot.start_frame, shot.end_frame))]
    ]
    assert result.clips == find_clips(everything)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (10, 20)),
        # The window reaches a sixth of the clip to each side.
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
def test_key_frames_are_sharp_and_close_to_the_thirds(changed, expected):
    assert choose_key_frames(30, dict.fromkeys(range(30), 1.0) | changed) == expected


def test_key_frames_are_two_different_candidates_in_order_the_nearest_if_a_window_holds_none():
    for candidates, expected in (([8, 9, 21, 23], (9, 21)), ([0, 28, 29], (0, 28)), ([29], (29, 29))):
        assert choose_key_frames(30, dict.fromkeys(candidates, 1.0)) == expected
    for num_frames in range(2, 60):
        sharpness = np.random.default_rng(num_frames).random(num_frames).tolist()
        first, second = choose_key_frames(num_frames, dict(enumerate(sharpness)))
        assert 0 <= first < second < num_frames


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small SigLIP with random weights."""
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


def test_shots_are_grouped_by_the_features_of_a_checkpoint(checkpoint, render, tmp_path):
    """Features of random weights are alike, descriptors are not."""
    features = load_embedder(checkpoint)([place(seed) for seed in (0, 1, 0)])
    assert features.shape == (3, 16)
    assert np.allclose(features[0], features[2], atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-3)
    path = render(FOUR_PLACES)
    for similarity, reason in ((0.1, "too few clips"), (1.0, None)):
        _, result = run(path, tmp_path, clips={"features": checkpoint, "similarity": similarity})
        assert result.reason == reason if reason else isinstance(result, Clips)
    with pytest.raises(ValueError, match=r"clips\.features .*nowhere.* cannot be loaded"):
        load_embedder(str(tmp_path / "nowhere"))
