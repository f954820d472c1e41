"""Judges see two texts and no video; what is fitted never saw the videos it is asked about."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_material import change, fair_pairs, pair, short_drops, telltale

from tempo.config import ModelConfig
from tempo.model.chat import Prefix
from tempo.model.loading import load_video_lm
from tempo.model.support import duplicated_log_probs
from tempo.preference.judges import (
    fit,
    length_right,
    longer_right,
    model_right,
    video_folds,
    word_features,
    words_right,
)


def swapped(rows):
    return change(rows, lambda row: (row.rejected, row.chosen))


def test_longer_text_wins_and_equal_lengths_are_half_right():
    rows = [pair("a", chosen="x y z"), pair("b", chosen="x"), pair("c"), pair("d", rejected="")]
    assert longer_right(rows).tolist() == [1.0, 0.0, 0.5, 1.0]


def test_swapping_the_texts_turns_every_answer_round():
    """So the order in which they are shown cannot matter."""
    rows = change(fair_pairs(30), short_drops)
    other = swapped(rows)
    assert longer_right(rows) + longer_right(other) == pytest.approx(np.ones(len(rows)))
    # Fitted judges learn which side is which: swapped everywhere, they are right as often.
    assert length_right(rows, seed=0) == pytest.approx(length_right(other, seed=0))
    assert words_right(rows, seed=0)[0] == pytest.approx(words_right(other, seed=0)[0])


def test_length_is_found_whichever_side_is_the_longer():
    rows = change(fair_pairs(40), short_drops)
    drops = np.array([row.kind == "drop" for row in rows])
    for given in (rows, swapped(rows)):
        assert length_right(given, seed=0)[drops].mean() > 0.95


def test_equal_lengths_everywhere_are_chance():
    rows = [pair(f"v{i}") for i in range(30)]
    assert set(length_right(rows, seed=0)) == {0.5}


def test_a_telltale_word_is_found_and_named():
    right, telling = words_right(change(fair_pairs(40), telltale), seed=0)
    assert right.mean() > 0.95
    assert telling["rejected"][0] == "suddenly"


def test_words_of_one_video_do_not_help_with_that_video():
    """Chosen answers share words that only their own video has; folds are by video."""

    def own_word(row):
        return f"{row.chosen} {row.video_id}", row.rejected

    fair, marked = fair_pairs(40), change(fair_pairs(40), own_word)
    assert abs(words_right(marked, seed=0)[0].mean() - words_right(fair, seed=0)[0].mean()) < 0.05


def test_pairs_drawn_alike_are_told_apart_about_half_of_the_time():
    rows = fair_pairs(150)
    for right in (longer_right(rows), length_right(rows, seed=0), words_right(rows, seed=0)[0]):
        assert 0.42 < right.mean() < 0.58


def test_folds_keep_a_video_together_and_are_even():
    videos = [f"v{i % 22}" for i in range(100)]
    folds = video_folds(videos, seed=0)
    fold_of = {}
    for video, fold in zip(videos, folds, strict=True):
        assert fold_of.setdefault(video, fold) == fold
    counts = np.bincount(list(fold_of.values()))
    assert len(counts) == 5
    assert counts.max() - counts.min() <= 1


def test_word_features_are_log_count_differences_of_words_without_case_and_marks():
    words, features = word_features([pair("a", chosen="A cat, a Dog.", rejected="a dog")])
    assert words == ["a", "cat"]
    assert features[0].tolist() == pytest.approx([np.log(3) - np.log(2), np.log(2)])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_fit_ends_where_the_gradient_is_zero(scale):
    features = scale * (np.random.default_rng(0).normal(size=(200, 5)) + 0.3)
    weights = fit(features)
    wrong = 1 / (1 + np.exp(np.clip(features @ weights, -500, 500)))
    assert np.abs(features.T @ wrong - weights).max() < 1e-3


def test_fit_of_separable_and_of_empty_features_is_finite():
    assert np.isfinite(fit(np.full((50, 1), 1e4))).all()
    assert fit(np.zeros((10, 2))).tolist() == [0.0, 0.0]
    assert fit(np.zeros((10, 0))).shape == (0,)


def test_no_word_differs_anywhere():
    right, telling = words_right([pair(f"v{i}") for i in range(25)], seed=0)
    assert set(right) == {0.5}
    assert telling == {"chosen": [], "rejected": []}


def test_model_is_asked_per_token_and_without_a_video():
    lm = load_video_lm(ModelConfig())
    rows = [
        pair("a", chosen="First, a red ring grows in the sea.", rejected="sea the in grows ring red"),
        pair("a", "drop", chosen="First, a red ring grows in the sea.", rejected="First, a red ring."),
        pair("b", chosen="sea sea sea", rejected="A blue cross turns red in the snow."),
    ]
    means = []
    for row in rows:
        group = lm.group(Prefix(None, row.prompt), [row.chosen, row.rejected])
        assert not any("pixel" in name for name in group.inputs)
        with torch.no_grad():
            means.append([float(logp.mean()) for logp in duplicated_log_probs(lm.model, [group])[0]])
    expected = [1.0 if chosen > rejected else 0.0 for chosen, rejected in means]
    told = []
    assert model_right(rows, lm, progress=lambda *at: told.append(at)).tolist() == expected
    assert told == [(1, 2), (2, 2)]
    assert len(set(expected)) == 2
