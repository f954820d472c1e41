"""Intervals: Wilson's published values, and a bootstrap that resamples whole videos."""

from __future__ import annotations

import numpy as np
import pytest

from tempo.core.statistics import cluster_interval, wilson_interval


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


@pytest.mark.parametrize("num_samples", [1, 7, 60, 1000])
def test_wilson_interval_contains_the_share_and_is_symmetric(num_samples):
    for num_right in {0, 1, num_samples // 3, num_samples}:
        low, high = wilson_interval(num_right, num_samples)
        assert 0 <= low <= high <= 1
        assert low - 1e-12 <= num_right / num_samples <= high + 1e-12
        assert wilson_interval(num_samples - num_right, num_samples) == pytest.approx((1 - high, 1 - low))


def test_bootstrap_resamples_whole_groups():
    """Ten copies of each value add no information: the interval is that of the forty groups."""
    of_group = np.random.default_rng(0).normal(size=40)
    names = [str(i) for i in range(40)]
    low, high = cluster_interval(of_group, names, seed=0)
    assert cluster_interval(np.repeat(of_group, 10), np.repeat(names, 10), seed=0) == pytest.approx(
        (low, high)
    )
    assert low < of_group.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * of_group.std() / np.sqrt(40), rel=0.15)


def test_larger_groups_weigh_more():
    low, high = cluster_interval([0.0] * 990 + [1.0] * 10, ["a"] * 990 + list("bcdefghijk"), seed=0)
    assert low < 0.01 < high


def test_seed_decides_and_order_does_not():
    values, names = np.random.default_rng(0).normal(size=30), [str(i) for i in range(30)]
    assert cluster_interval(values, names, seed=0) == cluster_interval(values[::-1], names[::-1], seed=0)
    assert cluster_interval(values, names, seed=0) != cluster_interval(values, names, seed=1)


@pytest.mark.parametrize("groups", [list("abcd"), list("aaaa")], ids=["equal values", "one group"])
def test_interval_without_spread_is_a_point(groups):
    assert cluster_interval([0.5] * 4, groups, seed=0) == (0.5, 0.5)
