import math

import numpy as np
import pytest

from tempo.video import key_frames


def choose_key_frames(sharpness, candidates=None):
    """Of a clip with the sharpness of every frame; all are candidates unless some are named."""
    numbers = range(len(sharpness)) if candidates is None else candidates
    return key_frames.choose_key_frames(len(sharpness), {number: sharpness[number] for number in numbers})


def test_key_frames_of_even_sharpness_are_the_centres():
    assert choose_key_frames([1.0] * 30) == (10, 20)
    assert choose_key_frames([0.0] * 30)[0] <= 15


def test_a_sharper_frame_near_a_centre_wins():
    sharpness = [1.0] * 30
    sharpness[12] = sharpness[18] = 3.0
    assert choose_key_frames(sharpness) == (12, 18)


def test_the_window_is_a_sixth_of_the_clip_to_either_side():
    for outside in (4, 16, 14, 26):
        sharpness = [1.0] * 30
        sharpness[outside] = 1000.0
        assert (
            choose_key_frames(sharpness) == (10, 20)
            if outside in (4, 26)
            else outside in choose_key_frames(sharpness)
        )
    for inside in (5, 15, 25):
        sharpness = [1.0] * 30
        sharpness[inside] = 1000.0
        assert inside in choose_key_frames(sharpness)


def test_the_window_falls_off_as_a_cosine():
    """Two frames from the centre, radius 5: a weight of cos(pi / 6)."""
    weight = math.cos(math.pi / 6)
    for factor, expected in ((0.99, 10), (1.01, 12)):
        sharpness = [1.0] * 30
        sharpness[12] = factor / weight
        # Its neighbours are blurred, so that only the centre competes.
        sharpness[9] = sharpness[11] = 0.5
        assert choose_key_frames(sharpness)[0] == expected


@pytest.mark.parametrize("num_frames", range(1, 60))
def test_key_frames_are_two_different_frames_of_the_clip_in_order(num_frames):
    rng = np.random.default_rng(num_frames)
    for sharpness in (rng.random(num_frames), np.eye(num_frames)[num_frames // 2] * 99 + 0.1):
        first, second = choose_key_frames(sharpness.tolist())
        assert 0 <= first <= second < num_frames
        assert first < second or num_frames == 1


@pytest.mark.parametrize("num_frames", [2, 9, 30, 59])
def test_candidates_that_hold_the_chosen_frames_change_nothing(num_frames):
    rng = np.random.default_rng(num_frames)
    for _ in range(50):
        sharpness = rng.random(num_frames).tolist()
        chosen = choose_key_frames(sharpness)
        others = {int(number) for number in rng.integers(0, num_frames, 3)}
        assert choose_key_frames(sharpness, sorted({*chosen, *others})) == chosen


def test_only_candidates_are_chosen():
    sharpness = [1.0] * 30
    sharpness[10] = sharpness[20] = 99.0
    assert choose_key_frames(sharpness, [8, 9, 21, 23]) == (9, 21)


def test_where_a_window_holds_no_candidate_the_nearest_is_chosen():
    assert choose_key_frames([1.0] * 30, [0, 28, 29]) == (0, 28)
    assert choose_key_frames([1.0] * 30, [29]) == (29, 29)
