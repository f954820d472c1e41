"""Verdicts on made-up results: every claim of configs/study.toml can hold, fail and stay open."""

import pytest
from made_up_study import LEVELS, STUDY, make_results, make_run, make_runs
from scipy import stats

from research.study.analysis import Estimate
from research.study.claims import FAILS, HOLDS, UNKNOWN, compare, decide, judge
from research.study.config import ClaimConfig

NAMES = [claim.name for claim in STUDY.claims]
NUM_COMPARISONS = sum(len(question.conditions) for question in STUDY.map)

#: Levels of rows with which each claim fails while all others stay as they are; None where that needs more.
FAILING = {
    "blind": {"blind": 0.8},
    "pre_sft_over_sft_then_dpo": {"sft_then_dpo": 0.95},
    "sft_then_dpo_over_sft": {"sft_then_dpo": 0.7},
    "easy_hard_over_fixed": {"only_2": 0.95},
    "easy_hard_over_mixed": {"random": 0.95},
    "easy_hard_over_hard_easy": {"four_hard": 0.95},
    "sft_starts_lower": {"sft_only": 0.95},
    "sft_starts_steadier": {"sft_only": 0.95},
    "own_pairs_best": {"on_other": 0.95},
    "pairs_transfer": {"half_on_other": 0.6},
    "small_set": {"quarter": 0.77},
    "method_over_sft": {"sft_only": 0.85},
    "static_kept": None,
    "probe_rises": {"base": 0.95},
    "probe_predicts": None,
}


def verdict(runs, name):
    """The outcome and the reason of one claim."""
    (found,) = (found for found in judge(make_results(runs)) if found.claim.name == name)
    return found.outcome, found.reason


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_holds_or_fails_with_its_intervals(name):
    found, why = verdict(make_runs(), name)
    assert found == HOLDS, why
    assert "5 seeds" in why or "rows" in why
    if changes := FAILING[name]:
        found, why = verdict(make_runs(**changes), name)
        assert found == FAILS, why


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("static_kept", "probe_predicts")])
def test_two_seeds_with_a_wide_spread_decide_no_claim(name):
    runs = []
    for index, (row, level) in enumerate((LEVELS | {"blind": 0.55}).items()):
        # No two rows have the same spread, so no difference is steady.
        runs += [
            make_run(row, seed, level + sign * (0.05 + 0.02 * index)) for seed, sign in ((1, 1), (2, -1))
        ]
    assert verdict(runs, name)[0] == UNKNOWN


@pytest.mark.parametrize("name", NAMES)
def test_too_few_runs_decide_no_claim(name):
    found, why = verdict(make_runs(seeds=(4,)), name)
    # The correlation over rows does not need several seeds.
    assert found == (HOLDS if name == "probe_predicts" else UNKNOWN)
    assert name == "probe_predicts" or "one seed" in why or "no interval" in why
    found, why = verdict([make_run("noisy_hard", seed, 0.8) for seed in (1, 2, 3)], name)
    assert found == UNKNOWN
    assert "not run" in why or "too few runs" in why


def test_a_claim_about_several_comparisons_needs_all_of_them():
    runs = make_runs(levels={row: level for row, level in LEVELS.items() if row != "only_2"})
    found, why = verdict(runs, "easy_hard_over_fixed")
    assert found == UNKNOWN
    assert "only_2: not run" in why
    assert "four_easy minus only_16" in why


def test_rows_without_a_common_seed_cannot_be_compared():
    runs = [make_run("method", 1, 0.9), make_run("sft_only", 2, 0.7)]
    assert verdict(runs, "method_over_sft") == (UNKNOWN, "too few runs, or no seed in common")


@pytest.mark.parametrize(("static", "expected"), [(0.98, HOLDS), (0.90, FAILS), (1.0, HOLDS)])
def test_static_questions_may_lose_two_points(static, expected):
    runs = [run | ({"static_accuracy": static} if run["row"] == "method" else {}) for run in make_runs()]
    assert verdict(runs, "static_kept")[0] == expected


def test_equal_figures_in_every_seed_are_not_a_lead():
    assert verdict(make_runs(spread=0.0, random=LEVELS["four_easy"]), "easy_hard_over_mixed")[0] == UNKNOWN
    half_a_question = make_runs(seeds=(1, 2), spread=0.0, random=LEVELS["four_easy"] - 0.00125)
    assert verdict(half_a_question, "easy_hard_over_mixed")[0] != HOLDS


def test_a_probe_that_ranks_the_rows_the_other_way_fails_the_claim():
    runs = make_runs()
    for run in runs:
        run["probe"] = run["probe"] and {**run["probe"], "win_rate": 1 - run["probe"]["win_rate"]}
    assert verdict(runs, "probe_predicts")[0] == FAILS


@pytest.mark.parametrize(
    ("interval", "mean", "expected"),
    [
        ((0.05, 0.2), 0.12, HOLDS),
        # Above zero, but the mean is below the aim, which the interval does not exclude.
        ((0.01, 0.15), 0.08, UNKNOWN),
        ((0.01, 0.09), 0.05, FAILS),
        ((-0.01, 0.3), 0.15, UNKNOWN),
        ((0.0, 0.3), 0.15, UNKNOWN),
    ],
)
def test_a_claim_with_a_size(interval, mean, expected):
    claim = ClaimConfig(name="c", source="s", text="t", rows=(("a", "b"),), min_mean=0.1)
    assert decide(claim, Estimate(mean, interval, 3)) == expected


def test_the_map_is_decided_by_intervals_that_are_corrected_for_all_its_comparisons():
    """Two rows differ by 3 points: enough for one comparison, too little for one of all those of the map."""

    def found(gain, spread):
        runs = [make_run("random", seed, 0.8) for seed in (1, 2, 3, 4)]
        runs += [make_run("four_easy", seed, 0.8 - gain + spread * (-1) ** seed) for seed in (1, 2, 3, 4)]
        made = {one.rows: one for one in compare(make_results(runs))}
        assert len(made) == NUM_COMPARISONS
        return made["random", "four_easy"]

    one = found(0.03, 0.01)
    assert one.found.interval[0] > 0 > one.corrected.interval[0]
    assert (one.found.mean, one.corrected.mean, one.outcome) == (0.03, 0.03, UNKNOWN)
    half = stats.t.ppf(1 - 0.025 / NUM_COMPARISONS, 3) * 0.01 * (4 / 3) ** 0.5 / 2
    assert one.corrected.interval == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)
    assert found(0.1, 0.01).outcome == "better"
    assert found(-0.1, 0.01).outcome == "worse"
    assert {one.outcome for one in compare(make_results([]))} == {UNKNOWN}
