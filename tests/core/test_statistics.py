"""Intervals: published values of Wilson's, and a bootstrap that draws whole videos."""

from __future__ import annotations

import numpy as np
import pytest

from tempo.core.statistics import cluster_interval, share_interval, wilson_interval


@pytest.mark.parametrize(
    ("num_right", "num_samples", "low", "high"),
    [
        # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (5, 10, 0.2366, 0.7634),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_has_the_published_values(num_right, num_samples, low, high):
    assert wilson_interval(num_right, num_samples) == pytest.approx((low, high), abs=1e-4)


def names(count, repeats=1):
    return [f"video-{index}" for index in range(count) for _ in range(repeats)]


def test_repeated_values_of_a_video_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=40)
    once = cluster_interval(values, names(40), seed=0)
    assert cluster_interval(np.repeat(values, 10), names(40, 10), seed=0) == pytest.approx(once)
    assert once[1] - once[0] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.15)


def test_questions_of_one_video_that_agree_widen_the_interval():
    """Ten questions per video, right or wrong together, are worth one sample per video."""
    together = np.repeat(np.arange(20) % 2, 10)
    mixed = np.tile(np.arange(10) % 2, 20)
    low, high = share_interval(together, names(20, 10), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20), rel=0.2)
    assert share_interval(mixed, names(20, 10), seed=0) == pytest.approx((0.5, 0.5))


def test_an_interval_of_weighted_values_does_not_exceed_one():
    assert share_interval([1.9] * 5 + [0.9, 0.9, 0.9, 0.0, 0.9], names(10), seed=0)[1] == 1.0


def test_the_seed_decides_the_draws_and_the_order_of_values_does_not():
    values = np.random.default_rng(0).normal(size=30)
    one = cluster_interval(values, names(30), seed=0)
    assert one == cluster_interval(values[::-1], names(30)[::-1], seed=0)
    assert one != cluster_interval(values, names(30), seed=1)


def test_one_cluster_has_no_bootstrap_interval():
    with pytest.raises(ValueError, match="these values have 1"):
        cluster_interval([1, 2], ["a", "a"], seed=0)


@pytest.mark.parametrize(
    ("values", "clusters", "expected"),
    [
        # Four videos are too few for a bootstrap; two questions of each count once.
        ([1, 1, 0, 0, 1, 1, 0, 0], names(4, 2), wilson_interval(2, 4)),
        ([1] * 20, names(10, 2), wilson_interval(10, 10)),
        ([0] * 10, names(10), wilson_interval(0, 10)),
        ([0.5] * 10, names(10), (0.5, 0.5)),
        ([], [], (0.0, 1.0)),
    ],
    ids=["few videos", "all right", "all wrong", "all ties", "nothing"],
)
def test_wilson_replaces_a_bootstrap_that_is_too_narrow(values, clusters, expected):
    assert share_interval(values, clusters, seed=0) == pytest.approx(expected)
