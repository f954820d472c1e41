"""Means, paired differences, shares and rank correlations of made-up rows, against known figures."""

import json

import numpy as np
import pytest
from scipy import stats
from study_material import made_up_row, made_up_rows, made_up_study

from research.study.figures import by_seed, correlations, differences, means, shares, value_of
from research.study.intervals import (
    correlation_interval,
    mean_interval,
    rank_correlation,
    ratio_interval,
    t_quantile,
)
from research.study.summary import read_study, summarize_study, write_study
from research.study.words import find, find_difference


def rows_of(**values):
    """A row per name and seed (1, 2, ...) with these temporal accuracies; None leaves a seed out."""
    return [
        made_up_row(name, seed, value)
        for name, levels in values.items()
        for seed, value in enumerate(levels, 1)
        if value is not None
    ]


# Intervals


def test_the_interval_of_a_mean_is_students():
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx([3 - 1.96324, 3 + 1.96324], abs=1e-4)
    assert mean_interval([0.0, 1.0]) == pytest.approx([0.5 - 6.3531, 0.5 + 6.3531], abs=1e-3)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) is None
    assert ratio_interval([0.5], [1.0]) is None


def test_seeds_that_agree_by_chance_keep_the_spread_of_rounding():
    assert mean_interval([0.5, 0.5]) == [0.5, 0.5]
    low, high = mean_interval([0.5, 0.5], step=0.01)
    assert high - 0.5 == pytest.approx(0.5 - low)
    assert high - 0.5 == pytest.approx(12.7062 * 0.01 / np.sqrt(12) / np.sqrt(2), rel=1e-4)
    # A spread that is larger anyway stays as it is.
    assert mean_interval([0.4, 0.6], step=0.01) == mean_interval([0.4, 0.6])


def test_fiellers_interval_holds_the_ratios_that_a_t_test_does_not_refuse():
    above, below = [0.05, 0.08, 0.06, 0.09, 0.04], [0.11, 0.14, 0.12, 0.16, 0.12]
    low, high = ratio_interval(above, below)

    def refused(ratio):
        return stats.ttest_1samp(np.array(above) - ratio * np.array(below), 0).pvalue < 0.05

    assert low < np.mean(above) / np.mean(below) < high
    assert [refused(low - 1e-3), refused(low + 1e-3), refused(high - 1e-3), refused(high + 1e-3)] == [
        *(True, False, False, True)
    ]


def test_a_share_of_a_gain_that_is_not_off_zero_has_no_interval():
    assert ratio_interval([0.1, 0.2, 0.1], [0.1, -0.1, 0.05]) is None


def test_rank_correlation_is_spearmans_with_ties():
    x, y = [1, 2, 2, 3, 5, 4, 2], [2, 1, 4, 4, 9, 3, 2]
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])]
)
def test_too_few_points_or_one_side_all_alike_have_no_rank_correlation(x, y):
    assert rank_correlation(x, y) is None


def test_the_bootstrap_draws_whole_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    names = [str(i) for i in range(30)]
    alone = correlation_interval(x, y, names, seed=0)
    # Ten copies of each point tell nothing new.
    repeated = correlation_interval(np.repeat(x, 10), np.repeat(y, 10), np.repeat(names, 10), seed=0)
    assert repeated == pytest.approx(alone)
    # Drawn one by one, as scipy ranks them.
    drawn = [stats.spearmanr(x[i], y[i]).statistic for i in rng.integers(30, size=(1000, 30))]
    assert alone == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_few_groups_have_no_interval():
    assert correlation_interval([1, 2, 3, 4], [1, 2, 3, 4], [*"abcd"], seed=0) is None
    assert correlation_interval([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], [*"abcde"], seed=0) is None


# Figures


def test_every_measure_is_read_from_its_place():
    row = made_up_row("method", 1, 0.8, static=0.97)
    row["probe"] = {"win_rate": 0.7, "margin": 0.12, "by_kind": {}}
    row["sft_start"] = {"loss": [3.0, 1.0], "grad_norm": [1.0, 3.0]}
    row["accuracy"] |= {"event_order": 0.6, "conflicting": 0.7}
    expected = {"temporal": 0.8, "static": 0.97, "win_rate": 0.7, "margin": 0.12, "order": 0.65}
    expected |= {"sft_loss": 2.0, "sft_grad_norm": 2.0, "sft_grad_spread": 2**0.5}
    assert {name: value_of(row, name) for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"probe": None}, "win_rate"),
        ({"sft_start": None}, "sft_loss"),
        ({"sft_start": {"loss": [], "grad_norm": [1.0]}}, "sft_grad_spread"),
        ({"sft_start": {"loss": [float("nan")], "grad_norm": []}}, "sft_loss"),
        ({"static_accuracy": None}, "static"),
        ({"accuracy": {"conflicting": 0.5}}, "order"),
        ({"accuracy": {"temporal": None}}, "temporal"),
    ],
)
def test_what_a_row_lacks_is_none_and_has_no_mean(change, measure):
    row = made_up_row("method", 1, 0.8) | change
    assert value_of(row, measure) is None
    assert find(means([row]), measure=measure) is None


def test_a_mean_over_seeds_with_its_interval():
    entry = find(means(rows_of(method=(0.5, 0.6, 0.7))), row="method", measure="temporal")
    half = t_quantile(2) * 0.1 / np.sqrt(3)
    assert entry["mean"] == 0.6
    assert entry["interval"] == pytest.approx([0.6 - half, 0.6 + half], abs=1e-5)
    assert entry["num_seeds"] == 3


def test_the_interval_of_a_share_stays_a_share():
    assert find(means(rows_of(method=(0.98, 1.0))), measure="temporal")["interval"][1] == 1.0
    assert find(means(rows_of(method=(0.98, 1.0))), measure="margin")["interval"][1] > 1.0


def test_differences_are_paired_by_seed():
    rows = rows_of(sft_only=(0.5, 0.9, 0.7), method=(0.6, 1.0, None))
    entry = find(differences(rows), row="method", against="sft_only", measure="temporal")
    # By seed the gain is the same, whatever the seeds differ by.
    assert (entry["mean"], entry["num_seeds"]) == (0.1, 2)
    assert entry["interval"][1] - entry["interval"][0] < 0.02


def test_the_other_architecture_is_compared_with_its_own():
    rows = rows_of(sft_only=(0.1, 0.2), b_sft_only=(0.5, 0.6), b_method=(0.7, 0.8), a_on_b=(0.3, 0.5))
    found = {(entry["row"], entry["against"]) for entry in differences(rows)}
    assert {("b_method", "b_sft_only"), ("a_on_b", "sft_only")} <= found
    assert not found & {("b_method", "sft_only"), ("b_sft_only", "sft_only"), ("a_on_b", "b_sft_only")}


def test_a_difference_is_found_either_way_round():
    study = {"differences": differences(rows_of(method=(0.8, 0.9, 0.9), mixed=(0.6, 0.6, 0.7)))}
    there = find_difference(study, "mixed", "method", "temporal")
    back = find_difference(study, "method", "mixed", "temporal")
    assert back["mean"] == -there["mean"] == pytest.approx(0.23333, abs=1e-4)
    assert back["interval"] == [-there["interval"][1], -there["interval"][0]]
    assert find_difference(study, "method", "best", "temporal") is None


def test_the_share_of_the_gain_that_is_kept():
    rows = rows_of(sft_only=(0.5, 0.6, 0.5), method=(0.7, 0.81, 0.7), a_on_b=(0.6, 0.71, 0.59))
    entry = find(shares(rows), row="a_on_b", measure="temporal")
    assert entry["mean"] == pytest.approx(0.3 / 0.61, abs=1e-4)
    assert entry["interval"][0] < entry["mean"] < entry["interval"][1]
    assert (entry["of"], entry["start"], entry["num_seeds"]) == ("method", "sft_only", 3)
    assert find(shares(rows), row="b_on_a") is None


def test_no_gain_has_no_share():
    assert shares(rows_of(sft_only=(0.5, 0.6), method=(0.5, 0.6), a_on_b=(0.7, 0.8))) == []


def test_correlation_over_rows_runs_and_rows_trained_by_preferences():
    rows = made_up_rows(seeds=(1, 2, 3))
    cells = correlations(rows)["win_rate"]["temporal"]
    # All rows but the blind one, which has no probe, and the four of the other architecture.
    assert cells["rows"]["num_points"] == 28
    assert cells["runs"]["num_points"] == 84
    assert (cells["runs"]["num_rows"], cells["trained_rows"]["num_points"]) == (28, 24)
    assert cells["rows"]["rho"] == 1.0
    for row in rows:
        if row["probe"]:
            row["probe"]["win_rate"] *= -1
    assert correlations(rows)["win_rate"]["order"]["rows"]["rho"] == -1.0
    assert correlations(rows)["margin"]["order"]["rows"]["rho"] == 1.0


def test_without_a_probe_there_is_no_correlation():
    rows = [row | {"probe": None} for row in made_up_rows(seeds=(1,))]
    expected = {"rho": None, "interval": None, "num_rows": 0, "num_points": 0}
    assert correlations(rows)["margin"]["temporal"]["runs"] == expected


def test_absent_rows_have_no_values():
    assert by_seed(made_up_rows(seeds=(1, 2)), "two_rounds", "temporal") == {}


# study.json


def test_the_study_holds_its_rows_and_where_they_come_from():
    rows = made_up_rows(seeds=(3, 1))
    study = summarize_study(rows, command="tempo study x", commit="abc", minutes=12.34, date="2000-01-01")
    kept = {key: study[key] for key in ("command", "commit", "minutes", "date", "seeds")}
    assert kept == {
        "command": "tempo study x",
        "commit": "abc",
        "minutes": 12.3,
        "date": "2000-01-01",
        "seeds": [1, 3],
    }
    assert study["rows"] == rows
    assert {"row", "against", "measure", "mean", "interval", "num_seeds"} == study["differences"][0].keys()
    assert {"name", "claim", "verdict", "why"} <= study["claims"][0].keys()


def test_nothing_was_run():
    study = made_up_study([])
    assert (study["means"], study["differences"], study["shares"], study["seeds"]) == ([], [], [], [])
    assert {claim["verdict"] for claim in study["claims"]} == {"cannot be told"}


def test_the_order_of_rows_changes_no_figure():
    rows = made_up_rows(seeds=(1, 2))
    turned = made_up_study(rows[::-1])
    study = made_up_study(rows)

    def ordered(entries):
        return sorted(json.dumps(entry) for entry in entries)

    for key in ("means", "differences", "shares", "claims"):
        assert ordered(turned[key]) == ordered(study[key])


def test_bad_rows_are_refused_by_name():
    row = made_up_row("method", 7, 0.9)
    with pytest.raises(ValueError, match="row 'method' with seed 7 is there twice"):
        made_up_study([row, row])
    with pytest.raises(ValueError, match=r"row 1 \(method\) has no 'accuracy'"):
        made_up_study([{"row": "method", "seed": 1}])


def test_what_is_written_is_read_again_with_an_entry_on_a_line(tmp_path):
    study = made_up_study(made_up_rows(seeds=(1, 2)))
    write_study(study, tmp_path / "study.json")
    assert read_study(tmp_path / "study.json") == study
    lines = (tmp_path / "study.json").read_text().splitlines()
    assert sum(line.startswith('  {"row": "method", "seed": ') for line in lines) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": []}', "\udcff"])
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    path = tmp_path / "study.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"study\.json"):
        read_study(path)
    with pytest.raises(ValueError, match=r"absent\.json cannot be read"):
        read_study(tmp_path / "absent.json")


def test_what_is_over_chance_may_be_under_it():
    rows = [
        {"row": "blind", "seed": seed, "accuracy": {"temporal": value}, "chance": {"temporal": 0.5}}
        for seed, value in ((1, 0.48), (2, 0.49), (3, 0.50))
    ]
    (found,) = (entry for entry in means(rows) if entry["measure"] == "over_chance")
    assert found["mean"] == pytest.approx(-0.01)
    assert found["interval"][0] < -0.01 < found["interval"][1]
