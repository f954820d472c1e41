"""What the model is told or shown: the captions, key frames or frames of clips in some order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo.config import parse_config
from tempo.core.records import Captions, Clip, Clips
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.inputs import (
    Footage,
    arrange,
    ask_captions,
    ask_footage,
    frames_by_clip,
    input_reader,
    key_frames_by_clip,
)
from tempo.preference.prompts import describe_prompt, fusion
from tempo.video.frames import FrameStore, encode_jpeg

many = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def video(*bounds, key_frames=2):
    """A video whose clips lie between these seconds."""
    clips = [
        Clip(
            group=i,
            first_shot=i,
            num_shots=1,
            start_seconds=start,
            end_seconds=end,
            key_frames=tuple(range(key_frames)),
        )
        for i, (start, end) in enumerate(bounds)
    ]
    return Clips(id="v", path="v.mp4", duration_seconds=bounds[-1][1], clips=tuple(clips))


@pytest.fixture
def store(tmp_path):
    """Frames of grey level 10 * i at i + 0.5 seconds, key frames of grey level 100 + 10 * i."""
    frames = [encode_jpeg(np.full((8, 8, 3), 10 * i, np.uint8), 100) for i in range(8)]
    key_frames = [encode_jpeg(np.full((8, 8, 3), 100 + 10 * i, np.uint8), 100) for i in range(6)]
    made = FrameStore(tmp_path / "frames")
    made.write("v", frames, seconds=[i + 0.5 for i in range(8)], fps=1.0, key_frames=key_frames)
    return made


def greys(request):
    return [int(np.median(frame)) for frame in request.frames]


THREE = ((0.0, 2.0), (2.0, 5.0), (5.0, 8.0))


def test_key_frames_belong_to_the_clips_they_were_chosen_for(store):
    footage = key_frames_by_clip(video(*THREE), store)
    assert footage.clip_T.tolist() == [0, 0, 1, 1, 2, 2]
    assert footage.fps == round(6 / 8, 3)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (THREE, [0, 0, 1, 1, 1, 2, 2, 2]),
        # A frame at the very time of a cut shows the clip that begins there.
        (((0, 2.5), (2.5, 5), (5, 8)), [0, 0, 1, 1, 1, 2, 2, 2]),
        (((0, 2.51), (2.51, 5), (5, 8)), [0, 0, 0, 1, 1, 2, 2, 2]),
        # Unusable shots before, between and after clips go with the clip before them, else with the first.
        (((1.2, 2), (4, 5), (5, 6)), [0, 0, 0, 0, 1, 2, 2, 2]),
        # A clip between two frames has none.
        (((0, 2.6), (2.6, 3.4), (3.4, 8)), [0, 0, 0, 2, 2, 2, 2, 2]),
    ],
)
def test_frames_belong_to_clips_by_time(store, bounds, expected):
    assert frames_by_clip(video(*bounds), store).clip_T.tolist() == expected


def test_frames_are_arranged_by_clip_and_keep_their_order_within(store):
    ask = ask_footage(frames_by_clip(video(*THREE), store), prompt="p")
    assert greys(ask([2, 0, 1], 0)) == [50, 60, 70, 0, 10, 20, 30, 40]
    assert greys(ask([1], 0)) == [20, 30, 40]


def test_key_frames_are_arranged_by_clip(store):
    ask = ask_footage(key_frames_by_clip(video(*THREE), store), prompt="p")
    assert greys(ask([2, 0], 0)) == [140, 150, 100, 110]


@pytest.mark.parametrize("read", [key_frames_by_clip, frames_by_clip])
def test_clips_as_filmed_give_exactly_the_clean_frames(store, read):
    clean = store.read_key_frames("v") if read is key_frames_by_clip else store.read("v").frames
    request = ask_footage(read(video(*THREE), store), prompt="p")(range(3), 7)
    assert np.array_equal(request.frames, clean)
    assert (request.prompt, request.seed) == ("p", 7)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1,)])
def test_a_perturbed_video_is_shown_at_the_rate_of_the_clean_one(store, order):
    """As an ordinary video of that many frames: nothing but the frames tells them apart."""
    for read in (key_frames_by_clip, frames_by_clip):
        footage = read(video(*THREE), store)
        assert ask_footage(footage, prompt="p")(order, 0).fps == footage.fps


@given(st.data())
@many
def test_arranging_is_a_permutation_of_the_frames_of_the_clips(data):
    num_clips = data.draw(st.integers(1, 12))
    clip_T = np.sort(data.draw(st.lists(st.integers(0, num_clips - 1), min_size=1, max_size=40)))
    order = data.draw(st.permutations(range(num_clips)))
    kept = order[: data.draw(st.integers(1, num_clips))]
    shown = arrange(clip_T, kept)
    assert sorted(shown.tolist()) == [t for t, clip in enumerate(clip_T) if clip in kept]
    assert [clip for clip, _ in itertools.groupby(clip_T[shown])] == [c for c in kept if c in clip_T]
    assert arrange(clip_T, range(num_clips)).tolist() == list(range(len(clip_T)))


def footage(clip_T, num_clips):
    frames = np.arange(len(clip_T), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Footage(frames, np.array(clip_T), num_clips, fps=1.0)


@pytest.mark.parametrize(
    ("order", "is_asked"),
    [
        ((0, 1, 2), True),
        ((1, 0, 2), False),  # Clip 1 has no frame: looks as filmed.
        ((0, 2), False),  # The same by dropping it.
        ((1,), False),  # Nothing to see.
        ((0, 1), True),
        ((2, 1, 0), True),
    ],
)
def test_what_looks_like_the_clean_video_or_like_nothing_is_not_asked(order, is_asked):
    request = ask_footage(footage([0, 0, 2, 2], 3), prompt="p")(order, 0)
    assert (request is not None) == is_asked


def test_captions_are_told_in_the_order_of_the_clips():
    request = ask_captions(("One.", "Two.", "Three."))((2, 0), 5)
    assert (request.prompt, request.seed, request.frames) == (fusion(["Three.", "One."]), 5, None)


@pytest.mark.parametrize(
    ("form", "num_frames", "needs"),
    [("captions", None, "captions"), ("clips", 6, "clips"), ("video", 8, "clips")],
)
def test_the_input_form_is_that_of_the_config_and_needs_only_its_own_rows(store, form, num_frames, needs):
    directory = store.directory.parent
    rows = {"captions": Captions(id="v", captions=("a", "b", "c")), "clips": video(*THREE)}
    RunStore(directory).append(needs, [rows[needs]])
    config = parse_config({"videos": {"paths": ["x"]}, "responses": {"input_form": form}})
    request = input_reader(Context(config, directory))("v")(range(3), 0)
    if form == "captions":
        assert (request.prompt, request.frames) == (fusion(["a", "b", "c"]), None)
    else:
        assert (request.prompt, len(request.frames)) == (describe_prompt("v", seed=0), num_frames)
