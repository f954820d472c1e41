"""The verdict says in words what the figures mean, and advises only where there is something to do."""

from __future__ import annotations

import pytest

from tempo.preference.verdict import verdict


def cell(accuracy, low=None, high=None):
    interval = [accuracy - 0.03 if low is None else low, high or accuracy + 0.03]
    return {"accuracy": accuracy, "interval": interval, "num_pairs": 300, "num_videos": 50}


def summary(accuracy, *, low=None, high=None, kinds=(), levels=()):
    return {**cell(accuracy, low, high), "by_kind": dict(kinds), "by_level": dict(levels)}


def said(**scores):
    return verdict(scores, num_pairs=300, num_videos=50)


def test_a_shortcut_is_named_with_its_figure_the_worst_kind_and_the_key_to_set():
    kinds = {"drop": cell(1.0, 0.96, 1.0), "shuffle": cell(0.5)}
    text = said(longer=summary(0.65, kinds=kinds), length=summary(0.63))
    assert "Length alone tells 65 % of the pairs apart, 100 % of drop pairs: a shortcut." in text
    assert 'pairs.length = "fair"' in text


def test_no_shortcut_gives_no_advice():
    text = said(longer=summary(0.5), length=summary(0.47), words=summary(0.52), model=summary(0.51))
    assert text.count("no shortcut.") == 3
    assert "pairs.length" not in text


def test_a_plain_judge_turned_round_is_a_shortcut_and_a_fitted_one_is_not():
    assert "by preferring the rejected answer" in said(model=summary(0.3))
    assert "70 %" in said(model=summary(0.3))
    assert said(words=summary(0.3)) == "The choice of words alone tells 30 % of the pairs apart: no shortcut."


def test_the_stronger_judge_of_length_counts():
    assert "Length alone tells 60 %" in said(longer=summary(0.4), length=summary(0.52))
    assert "Length alone tells 62 %" in said(longer=summary(0.5), length=summary(0.62))


def test_a_kind_or_level_can_be_a_shortcut_where_the_whole_is_none():
    text = said(longer=summary(0.53, levels={"16": cell(0.9), "2": cell(0.5)}))
    assert "Length alone tells 53 % of the pairs apart, but 90 % of level 16: a shortcut there." in text
    uncertain = {"16": cell(0.9, 0.5, 1.0), "2": cell(0.9) | {"num_videos": 19}}
    assert "level" not in said(longer=summary(0.53, levels=uncertain))


def test_a_wide_interval_is_not_called_certain():
    text = said(words=summary(0.58, low=0.48, high=0.68))
    assert text == "The choice of words alone tells 58 % of the pairs apart: no shortcut that is certain."


@pytest.mark.parametrize("scores", [{}, {"longer": summary(0.9)}])
def test_too_few_videos_are_said_to_be_too_few(scores):
    text = verdict(scores, num_pairs=35, num_videos=7)
    assert text == "Too few to say: 35 pairs of 7 videos, 20 videos are needed."
