"""The paper's claims and the project's aims, one by one: holds, does not hold, or cannot be told.

What is asked of each claim was written down before the study was run. Aims are in shares: 0.1 is ten points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from research.study.judging import Study, Verdict, ahead, all_of, blind_at_chance, kept, lower, predicts

#: How far the method is meant to be ahead of SFT alone, and how much static questions may lose.
AIM, MAY_LOSE = 0.10, 0.02
#: What is called enough: this share of the gain, kept by a quarter of the pairs.
ENOUGH = 0.8
#: This far from drawing options is still chance; blind, conflicting videos alone always are.
NEAR_CHANCE = 0.05
SINGLE = ("single_16", "single_8", "single_4", "single_2")


@dataclass(frozen=True)
class Claim:
    """A claim, where it comes from ("world", "paper", "aim" or "why"), and what decides it."""

    name: str
    source: str
    text: str
    judge: Callable[[Study], Verdict]


def judge_claims(study: Study) -> list[dict[str, str]]:
    """Name, source, claim, verdict and the figures behind it, for every claim."""
    found = []
    for claim in CLAIMS:
        verdict, why = claim.judge(study)
        cells = {"name": claim.name, "source": claim.source, "claim": claim.text}
        found.append({**cells, "verdict": verdict, "why": why})
    return found


def _ahead(row: str, against: str, *, reach: float = 0.0) -> Callable[[Study], Verdict]:
    """By temporal accuracy, with the figures of order beside it."""
    return partial(ahead, row=row, against=against, reach=reach, beside=("event_order", "group_score"))


CLAIMS = (
    Claim(
        "blind",
        "world",
        f"Without the video, all temporal questions are at chance, within {100 * NEAR_CHANCE:.0f} points.",
        partial(blind_at_chance, within=NEAR_CHANCE),
    ),
    Claim(
        "pre_sft_over_sft_then_dpo",
        "paper",
        "Preferences before SFT beat SFT followed by preferences.",
        _ahead("method", "sft_then_dpo"),
    ),
    Claim(
        "sft_then_dpo_over_sft",
        "paper",
        "SFT followed by preferences beats SFT alone.",
        _ahead("sft_then_dpo", "sft_only"),
    ),
    Claim(
        "easy_hard_over_fixed",
        "paper",
        "Easy to hard beats each fixed difficulty.",
        all_of(*(partial(ahead, row="method", against=name) for name in SINGLE)),
    ),
    Claim("easy_hard_over_mixed", "paper", "Easy to hard beats all levels mixed.", _ahead("method", "mixed")),
    Claim(
        "easy_hard_over_hard_easy",
        "paper",
        "Easy to hard beats hard to easy.",
        _ahead("method", "hard_easy"),
    ),
    Claim(
        "sft_starts_lower",
        "paper",
        "After preferences, SFT starts at a lower loss.",
        partial(lower, row="method", against="sft_only", measure="sft_loss"),
    ),
    Claim(
        "sft_starts_steadier",
        "paper",
        "After preferences, SFT starts with steadier gradients: their norm varies less from step to step.",
        partial(lower, row="method", against="sft_only", measure="sft_grad_spread"),
    ),
    Claim(
        "own_pairs_best",
        "paper",
        "Pairs that a model made itself teach it more than those of another architecture.",
        all_of(_ahead("method", "a_on_b"), _ahead("b_method", "b_on_a")),
    ),
    Claim(
        "pairs_transfer",
        "paper",
        "Pairs of another architecture still gain something over SFT alone.",
        all_of(_ahead("a_on_b", "sft_only"), _ahead("b_on_a", "b_sft_only")),
    ),
    Claim(
        "small_set",
        "paper",
        f"A small set is enough: a quarter of the pairs keeps {100 * ENOUGH:.0f} % of the gain.",
        partial(kept, row="data_1_4", at_least=ENOUGH),
    ),
    Claim(
        "method_over_sft",
        "aim",
        f"The method is {100 * AIM:.0f} points or more over SFT alone in temporal accuracy.",
        _ahead("method", "sft_only", reach=AIM),
    ),
    Claim(
        "static_kept",
        "aim",
        f"Static questions lose no more than {100 * MAY_LOSE:.0f} points against SFT alone.",
        partial(ahead, row="method", against="sft_only", measure="static", over=-MAY_LOSE, reach=-MAY_LOSE),
    ),
    Claim(
        "best_over_method",
        "aim",
        "Our best recipe beats the method, also where that sees as many pairs, or takes as many steps.",
        all_of(*(_ahead("best", name) for name in ("method", "method_twice", "method_long"))),
    ),
    Claim(
        "probe_rises",
        "aim",
        "The probe's win rate rises with DPO, on videos that DPO has not seen.",
        partial(ahead, row="dpo_only", against="base", measure="win_rate"),
    ),
    Claim(
        "probe_predicts",
        "aim",
        "The probe predicts temporal accuracy across the rows of the study.",
        predicts,
    ),
    Claim(
        "pre_sft_over_long_sft_then_dpo",
        "why",
        "Preferences before SFT beat SFT followed by preferences, where SFT is four times as long.",
        _ahead("method_sft_long", "sft_long_then_dpo"),
    ),
    Claim(
        "small_set_seen_as_often",
        "why",
        f"A quarter of the pairs keeps {100 * ENOUGH:.0f} % of the gain, seen four times as often.",
        partial(kept, row="data_1_4_long", at_least=ENOUGH),
    ),
    Claim(
        "true_sft_starts_lower",
        "why",
        "After preferences, SFT starts at a lower loss where its answers tell the true order.",
        partial(lower, row="method_sft_true", against="sft_true", measure="sft_loss"),
    ),
)
