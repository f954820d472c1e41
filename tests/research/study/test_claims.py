"""Verdicts on made-up studies: every claim can hold, fail and stay open, and says why."""

import pytest
from study_material import LEVELS, made_up_row, made_up_rows, made_up_study

from research.study.claims import AIM, CLAIMS
from research.study.judging import FAILS, HOLDS, UNKNOWN, verdict_of

#: Levels of some rows with which each claim fails, where the others stay as they are.
FAILING = {
    "blind": {"blind": 0.8},
    "pre_sft_over_sft_then_dpo": {"sft_then_dpo": 0.95},
    "sft_then_dpo_over_sft": {"sft_then_dpo": 0.7},
    "easy_hard_over_fixed": {"single_2": 0.95},
    "easy_hard_over_mixed": {"mixed": 0.95},
    "easy_hard_over_hard_easy": {"hard_easy": 0.95},
    "sft_starts_lower": {"sft_only": 0.95},
    "sft_starts_steadier": {"sft_only": 0.95},
    "own_pairs_best": {"a_on_b": 0.95},
    "pairs_transfer": {"b_on_a": 0.6},
    "small_set": {"data_1_4": 0.77},
    "method_over_sft": {"sft_only": 0.85},
    "static_kept": None,
    "best_over_method": {"best": 0.85},
    "probe_rises": {"base": 0.95},
    "probe_predicts": None,
    "small_set_seen_as_often": {"data_1_4_long": 0.77},
    "pre_sft_over_long_sft_then_dpo": {"sft_long_then_dpo": 0.95},
    "true_sft_starts_lower": {"sft_true": 0.97},
}
NAMES = [claim.name for claim in CLAIMS]


def verdict(rows, name):
    """(verdict, why) of one claim."""
    (found,) = (claim for claim in made_up_study(rows)["claims"] if claim["name"] == name)
    return found["verdict"], found["why"]


def with_static(rows, name, static):
    return [{**row, "static_accuracy": static} if row["row"] == name else row for row in rows]


def test_every_claim_has_a_case_here():
    assert sorted(FAILING) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_holds_when_the_interval_is_off_zero(name):
    rows = made_up_rows(data_1_4=0.89)
    found, why = verdict(rows, name)
    assert found == HOLDS, why
    assert "5 seeds" in why or "28 rows" in why


@pytest.mark.parametrize("name", [name for name in NAMES if FAILING[name]])
def test_a_claim_fails_when_the_interval_is_off_zero_on_the_wrong_side(name):
    found, why = verdict(made_up_rows(**FAILING[name]), name)
    assert found == FAILS, why
    assert "5 seeds" in why


def test_static_questions_that_lose_too_much_fail_the_claim():
    rows = made_up_rows()
    assert verdict(with_static(rows, "method", 0.98), "static_kept")[0] == HOLDS
    found, why = verdict(with_static(rows, "method", 0.90), "static_kept")
    assert found == FAILS
    assert "-9.0" in why
    # Better than before is no loss.
    assert verdict(with_static(rows, "sft_only", 0.90), "static_kept")[0] == HOLDS


def test_a_probe_that_ranks_the_other_way_fails_the_claim():
    rows = made_up_rows()
    for row in rows:
        row["probe"] = row["probe"] and {**row["probe"], "win_rate": 1 - row["probe"]["win_rate"]}
    assert verdict(rows, "probe_predicts")[0] == FAILS


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("static_kept", "probe_predicts")])
def test_with_a_wide_spread_and_two_seeds_nothing_can_be_told(name):
    rows = []
    for index, (row, level) in enumerate((LEVELS | {"blind": 0.55}).items()):
        # No two rows swing alike, so that no difference is steady.
        swing = 0.05 + 0.02 * index
        rows += [made_up_row(row, 1, level + swing), made_up_row(row, 2, level - swing)]
    assert verdict(rows, name)[0] == UNKNOWN


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_tells_nothing_but_the_correlation_over_rows(name):
    found, why = verdict(made_up_rows(seeds=(4,)), name)
    if name == "probe_predicts":
        assert found == HOLDS
    else:
        assert found == UNKNOWN
        assert "one seed" in why or "no interval" in why


@pytest.mark.parametrize("name", NAMES)
def test_without_its_rows_a_claim_says_that_they_were_not_run(name):
    found, why = verdict([made_up_row("only_drop", seed, 0.8) for seed in (1, 2, 3)], name)
    assert found == UNKNOWN
    assert "not run" in why or "no rank correlation" in why


def test_rows_without_a_seed_in_common_cannot_be_compared():
    rows = [made_up_row("method", 1, 0.9), made_up_row("sft_only", 2, 0.7)]
    assert verdict(rows, "method_over_sft") == (UNKNOWN, "method and sft_only have no seed in common")


def test_one_missing_level_leaves_the_claim_about_all_levels_open():
    levels = {name: level for name, level in LEVELS.items() if name != "single_4"}
    found, why = verdict(made_up_rows(levels=levels), "easy_hard_over_fixed")
    assert found == UNKNOWN
    assert "single_4: not run" in why
    assert "method minus single_16" in why


def test_equal_figures_in_every_seed_are_no_lead():
    rows = made_up_rows(spread=0.0, mixed=LEVELS["method"])
    assert verdict(rows, "easy_hard_over_mixed")[0] == UNKNOWN
    # A size is excluded by them, though.
    rows = made_up_rows(spread=0.0, method=LEVELS["sft_only"])
    assert verdict(rows, "method_over_sft")[0] == FAILS


def test_two_seeds_that_gain_the_same_half_question_are_no_proof():
    rows = made_up_rows(seeds=(1, 2), spread=0.0, best=LEVELS["method"] + 0.005)
    assert verdict(rows, "best_over_method")[0] == UNKNOWN


def test_a_lead_that_is_real_but_smaller_than_the_aim():
    rows = made_up_rows(spread=0.002, sft_only=0.80, method=0.86)
    found, why = verdict(rows, "method_over_sft")
    assert found == FAILS
    assert "+6" in why or "+5" in why


@pytest.mark.parametrize(
    ("interval", "mean", "expected"),
    [
        (None, 0.5, UNKNOWN),
        ([0.05, 0.2], 0.12, HOLDS),
        # Off zero, but the mean is short of the aim, which the interval does not exclude.
        ([0.01, 0.15], 0.08, UNKNOWN),
        ([0.01, 0.09], 0.05, FAILS),
        ([-0.01, 0.3], 0.15, UNKNOWN),
        ([0.0, 0.3], 0.15, UNKNOWN),
    ],
)
def test_the_verdict_with_a_size(interval, mean, expected):
    assert verdict_of(interval, mean, over=0.0, reach=AIM) == expected


def test_the_figures_stand_in_the_reason():
    rows = [made_up_row(n, s, v) for n, v in (("method", 0.9), ("sft_only", 0.78)) for s in (1, 2, 3)]
    assert verdict(rows, "method_over_sft") == (
        HOLDS,
        "temporal accuracy, method minus sft_only: +12.0 [+11.8, +12.2] points; "
        "event order +8.0 [+7.8, +8.2]; conflicting, both right +24.0 [+23.3, +24.7] (3 seeds)",
    )
