"""Means, paired differences, shares of a gain and rank correlations, against known figures."""

from functools import partial

import numpy as np
import pytest
from made_up_study import make_results, make_run, make_runs
from scipy import stats

from research.study import analysis
from research.study.analysis import (
    correlation_interval,
    mean_interval,
    rank_correlation,
    ratio_interval,
)


def results_of(**values):
    """Results with these temporal accuracies by row, for seeds 1, 2, ...; None leaves a seed out."""
    return make_results(
        [
            make_run(row, seed, value)
            for row, levels in values.items()
            for seed, value in enumerate(levels, 1)
            if value is not None
        ]
    )


def test_the_interval_of_a_mean_is_students_and_at_least_as_wide_as_rounding():
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx([3 - 1.96324, 3 + 1.96324], abs=1e-4)
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    low, high = mean_interval([0.5, 0.5], step=0.01)
    assert high - 0.5 == pytest.approx(0.5 - low)
    assert high - 0.5 == pytest.approx(12.7062 * 0.01 / np.sqrt(12) / np.sqrt(2), rel=1e-4)
    assert mean_interval([0.4, 0.6], step=0.01) == mean_interval([0.4, 0.6])


def test_fiellers_interval_contains_the_ratios_that_a_t_test_does_not_reject():
    above, below = np.array([0.05, 0.08, 0.06, 0.09, 0.04]), np.array([0.11, 0.14, 0.12, 0.16, 0.12])
    low, high = ratio_interval(above, below)
    rejected = [
        stats.ttest_1samp(above - ratio * below, 0).pvalue < 0.05
        for ratio in (low - 1e-3, low + 1e-3, high - 1e-3, high + 1e-3)
    ]
    assert rejected == [True, False, False, True]
    assert low < above.mean() / below.mean() < high
    # One seed, and a gain that may be zero.
    assert ratio_interval([0.5], [1.0]) is None
    assert ratio_interval([0.1, 0.2, 0.1], [0.1, -0.1, 0.05]) is None


def test_rank_correlation_is_spearmans_with_ties():
    x, y = [1, 2, 2, 3, 5, 4, 2], [2, 1, 4, 4, 9, 3, 2]
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    for few in (([], []), ([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])):
        assert rank_correlation(*few) is None


def test_the_bootstrap_draws_whole_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y, names = x + rng.normal(size=30), [str(i) for i in range(30)]
    alone = correlation_interval(x, y, names, seed=0)
    # Ten copies of each point carry no new information.
    repeated = correlation_interval(np.repeat(x, 10), np.repeat(y, 10), np.repeat(names, 10), seed=0)
    assert repeated == pytest.approx(alone)
    drawn = [stats.spearmanr(x[i], y[i]).statistic for i in rng.integers(30, size=(1000, 30))]
    assert alone == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)
    assert correlation_interval([1, 2, 3, 4], [1, 2, 3, 4], [*"abcd"], seed=0) is None


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        *(("temporal", 0.8), ("order", 0.65), ("over_chance", 0.35), ("static", 0.97), ("win_rate", 0.7)),
        *(("margin", 0.12), ("win_rate_reverse", 0.9), ("sft_loss", 2.0), ("sft_grad_norm", 2.0)),
        *(("sft_grad_spread", np.sqrt(2)), ("unheard_of", None)),
    ],
)
def test_every_metric_is_read_from_its_run(metric, expected):
    run = make_run("method", 1, 0.8, static=0.97)
    run["probe"] = {"win_rate": 0.7, "margin": 0.12, "by_kind": {"reverse": {"win_rate": 0.9}}}
    run["sft_start"] = {"loss": [3.0, 1.0], "grad_norm": [1.0, 3.0]}
    run["accuracy"] |= {"event_order": 0.6, "conflicting": 0.7}
    found = analysis.mean(make_results([run]), "method", metric)
    assert (found and found.mean) == (expected and pytest.approx(expected, abs=1e-5))


def test_a_figure_that_is_absent_or_not_finite_has_no_mean():
    for probe in (None, {"win_rate": float("nan"), "margin": 0.0}):
        results = make_results([make_run("method", 1, 0.8) | {"probe": probe}])
        assert analysis.mean(results, "method", "win_rate") is None


def test_only_intervals_of_shares_are_cut_at_one():
    found = analysis.mean(results_of(method=(0.5, 0.6, 0.7)), "method", "temporal")
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (found.mean, found.num_seeds) == (0.6, 3)
    assert found.interval == pytest.approx([0.6 - half, 0.6 + half], abs=1e-5)
    results = results_of(method=(0.98, 1.0))
    assert analysis.mean(results, "method", "temporal").interval[1] == 1.0
    assert analysis.mean(results, "method", "margin").interval[1] > 1.0


def test_differences_are_paired_by_seed():
    results = results_of(sft_only=(0.5, 0.9, 0.7), method=(0.6, 1.0, None))
    found = analysis.difference(results, "method", "sft_only", "temporal")
    # The gain is the same with every seed, however much the seeds differ.
    assert (found.mean, found.num_seeds) == (0.1, 2)
    assert found.interval[1] - found.interval[0] < 0.02
    assert analysis.difference(results, "method", "ceiling", "temporal") is None


def test_the_share_of_a_gain_that_is_kept():
    kept = partial(analysis.gain_kept, row="a", whole="b", start="c", metric="temporal")
    found = kept(results_of(c=(0.5, 0.6, 0.5), b=(0.7, 0.81, 0.7), a=(0.6, 0.71, 0.59)))
    assert found.mean == pytest.approx(0.3 / 0.61, abs=1e-4)
    assert found.interval[0] < found.mean < found.interval[1]
    assert kept(results_of(c=(0.5, 0.6), b=(0.5, 0.6), a=(0.7, 0.8))) is None
    assert kept(results_of(c=(0.5, 0.6), b=(0.7, 0.8))) is None


def test_correlation_over_rows_over_runs_and_over_rows_trained_with_dpo():
    runs = make_runs(seeds=(1, 2, 3))
    count = len({run["row"] for run in runs} - {"blind", "half_base", "half_on_own", "half_on_other"})
    find = partial(analysis.correlation, probe="win_rate", target="temporal")
    results = make_results(runs)
    assert (find(results).mean, find(results).num_seeds) == (1.0, count)
    assert find(results, single_runs=True).num_seeds == 3 * count
    assert find(results, only_dpo=True).num_seeds == count - len({"base", "sft_only"})
    for run in runs:
        run["probe"] = run["probe"] and {**run["probe"], "win_rate": -run["probe"]["win_rate"]}
    assert find(make_results(runs)).mean == -1.0
    assert find(make_results([run | {"probe": None} for run in runs])) is None


def test_estimates_as_text():
    estimate = analysis.Estimate(0.91, (-0.0001, 1.0), 3)
    assert estimate.text() == "91.0 [0.0, 100.0]"
    assert estimate.text(signed=True) == "+91.0 [0.0, +100.0]"
    assert estimate.text("margin") == "0.910 [0.000, 1.000]"
    assert analysis.Estimate(0.5, None, 1).text() == "50.0 (one seed)"
    assert analysis.Estimate(0.5, None, 3).text("rho") == "0.50 (no interval)"


def test_two_runs_of_one_row_and_seed_are_refused():
    with pytest.raises(ValueError, match="method"):
        _ = make_results([make_run("method", 7, 0.9)] * 2).values
