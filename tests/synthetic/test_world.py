"""Stories come from a seed alone, and their frames show what their scripts describe."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from tempo.config import ClipsConfig
from tempo.synthetic.drawing import FPS, SHOT_FRAMES, SIZE, draw_event, render_story
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES, Event, make_story

ASPECT_OF = {action: aspect for aspect, actions in ACTIONS.items() for action in actions}
STORIES = [make_story(3, index, num_shots=(4, 16)) for index in range(150)]
DRIFTS = (-1.0, 0.0, 0.7)


def event(action, **fields):
    shown = {"setting": "cave", "colour": "yellow", "shape": "square", "drift": 0.0} | fields
    return Event(aspect=ASPECT_OF[action], action=action, **shown)


def drawn(shown, time):
    return np.asarray(draw_event(shown, time)).astype(int)


def where_painted(shown, time):
    """Mask [SIZE, SIZE] of the shape's pixels: the difference to the end of a disappearance."""
    gone = shown.model_copy(update={"action": "disappears"})
    return (drawn(shown, time) != drawn(gone, 1.0)).any(axis=-1)


def centre(shown, time):
    """Mean (x, y) of the shape's pixels."""
    rows, columns = np.nonzero(where_painted(shown, time))
    return columns.mean(), rows.mean()


def test_a_story_depends_on_its_seed_and_number_alone():
    assert [make_story(3, index, num_shots=(4, 16)) for index in reversed(range(150))] == STORIES[::-1]
    others = [make_story(seed, index, num_shots=(4, 16)) for seed in range(5) for index in range(40)]
    assert len({story.events for story in others}) == len({story.id for story in others}) == 200


@pytest.mark.parametrize(("plain", "counts"), [(False, {4, 5, 6, 7}), (True, {1, 2, 3})])
def test_a_story_has_as_many_shots_as_asked_for(plain, counts):
    stories = [make_story(0, index, num_shots=(4, 7), plain=plain) for index in range(200)]
    assert {len(story.events) for story in stories} == counts


def test_events_of_a_story_differ_and_all_words_occur():
    for story in STORIES:
        assert len({e.thing for e in story.events}) == len(story.events)
        assert all(a.setting != b.setting for a, b in itertools.pairwise(story.events))
    events = [e for story in STORIES for e in story.events]
    words = ("setting", SETTINGS), ("colour", COLOURS), ("shape", SHAPES), ("action", ASPECT_OF)
    assert all({getattr(e, field) for e in events} == set(values) for field, values in words)
    assert all(e.action in ACTIONS[e.aspect] and e.action != f"turns {e.colour}" for e in events)
    assert all(-1 <= e.drift <= 1 for e in events)


@pytest.mark.parametrize("count", range(4, 17))
def test_settings_recur_no_more_often_than_the_clips_stage_accepts(count):
    clips = ClipsConfig()
    most = min(clips.max_group_clips, count // clips.group_divisor)
    for index in range(40):
        settings = [e.setting for e in make_story(1, index, num_shots=(count, count)).events]
        assert max(settings.count(setting) for setting in settings) <= most


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("action", "axis", "sign"),
    [("moves left", 0, -1), ("moves right", 0, 1), ("moves up", 1, -1), ("moves down", 1, 1)],
)
def test_a_movement_goes_in_its_direction_only(action, axis, sign, shape, drift):
    places = np.array([centre(event(action, shape=shape, drift=drift), t) for t in (0.05, 0.35, 0.65, 0.95)])
    steps = sign * np.diff(places[:, axis])
    assert (steps > 0.1 * SIZE).all()
    assert np.ptp(places[:, 1 - axis]) < 0.04 * SIZE


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize(("action", "half"), [("speeds up", 1), ("slows down", 0)])
def test_a_change_of_speed_puts_most_of_the_way_into_one_half(action, half, drift):
    places = np.array([centre(event(action, drift=drift), t) for t in (0.0, 0.5, 1.0)])
    ways = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert ways[half] > 4 * ways[1 - half]


def test_a_shape_appears_or_disappears_in_the_middle_of_the_shot():
    for time in (0.0, 0.45, 0.55, 1.0):
        assert where_painted(event("appears"), time).any() == (time > 0.5)
        assert where_painted(event("disappears"), time).any() == (time < 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(COLOURS, 2)))
def test_a_change_of_colour_keeps_the_shape_in_place_and_shows_the_new_colour(before, after, shape):
    shown = event(f"turns {after}", colour=before, shape=shape)
    for time, colour in ((0.4, before), (0.6, after)):
        assert (drawn(shown, time) == drawn(event("appears", colour=colour, shape=shape), 0.9)).all()
    assert (drawn(shown, 0.4) != drawn(shown, 0.6)).any()


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize(
    ("action", "reverse"),
    [
        ("moves left", "moves right"),
        ("moves up", "moves down"),
        ("grows", "shrinks"),
        ("appears", "disappears"),
    ],
)
def test_an_action_played_backwards_shows_the_frames_of_its_opposite(action, reverse, drift):
    """Only the order of frames distinguishes the two; no single frame does."""
    times = (np.arange(SHOT_FRAMES) + 0.5) / SHOT_FRAMES
    for time in times:
        forwards = drawn(event(action, drift=drift), time)
        backwards = drawn(event(reverse, drift=drift), 1 - time)
        # A rounding of the last digit may move an edge by a pixel.
        assert (forwards != backwards).any(axis=-1).mean() < 0.02


def test_a_video_shows_every_frame_that_was_drawn_and_cuts_between_shots_only(tmp_path):
    story, path = make_story(5, 0, num_shots=(4, 4)), tmp_path / "a.mp4"
    render_story(story, path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == FPS
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    times = (np.arange(SHOT_FRAMES) + 0.5) / SHOT_FRAMES
    expected = np.stack([draw_event(shown, time) for shown in story.events for time in times])
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 6
    change = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    cuts = [SHOT_FRAMES * i - 1 for i in range(1, len(story.events))]
    assert change[cuts].min() > 1.5 * np.delete(change, cuts).max()
    assert change[cuts].min() > 15
