"""The benchmark of the detectors: its known transitions, its counts, and that hard cuts are found."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import detectors
from detectors import Score, match
from films import TRANSITIONS, Transition, draw_shots, join, write

HARD, SLOW = Transition(50, 50), Transition(100, 120)


@pytest.mark.parametrize(
    ("cuts", "found", "false", "double"),
    [
        ([], 0, 0, 0),
        ([50, 110], 2, 0, 0),
        ([47, 53], 1, 1, 1),
        ([46, 54], 0, 2, 0),
        ([97, 123], 1, 1, 1),
        ([96, 124], 0, 2, 0),
        ([10, 50, 101, 119, 123, 200], 2, 4, 2),
    ],
)
def test_each_transition_matches_one_cut_and_all_other_cuts_are_false(cuts, found, false, double):
    assert match(cuts, [HARD, SLOW], tolerance=3) == Score(2, found, false, double)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_only_frames_within_a_transition_differ_from_the_shots(name):
    greys = 40, 120, 200
    shots = [np.full((60, 2, 2, 3), grey, np.uint8) for grey in greys]
    pieces, transitions = join(shots, name, np.random.default_rng(0))
    levels = np.concatenate(pieces)[:, 0, 0, 0]
    ends = [0, *(one.end for one in transitions)]
    firsts = [*(one.first for one in transitions), len(levels)]
    for grey, start, end in zip(greys, ends, firsts, strict=True):
        assert set(levels[start:end]) == {grey}
    for one in transitions:
        assert levels[one.first] != levels[one.first - 1]
        assert levels[one.end] != levels[one.end - 1]
        assert (one.end - one.first in range(12, 25)) == (name != "hard cut")
        assert (0 in levels[one.first : one.end]) == (name == "fade through black")


def test_content_finds_every_hard_cut_of_a_story_and_nothing_else(tmp_path):
    pieces, transitions = join(draw_shots(7, 5), "hard cut", np.random.default_rng(7))
    write(pieces, tmp_path / "film.mp4")
    assert detectors.find_cuts(tmp_path / "film.mp4", "content") == [one.first for one in transitions]
