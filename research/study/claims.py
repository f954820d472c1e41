"""The verdict on each claim of a study: it holds, it does not hold, or the data cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from research.study import analysis
from research.study.analysis import NOT_RUN, Estimate, Results
from research.study.config import ClaimConfig

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"

#: For each test, the function that computes its estimate from results, rows and metric, and the text for it.
TESTS: Mapping[str, tuple[Callable[..., Estimate | None], str]] = {
    "difference": (analysis.difference, "{metric}, {rows[0]} minus {rows[1]}: {value}{unit}"),
    "gain_kept": (analysis.gain_kept, "{rows[0]} keeps {value} % of the gain of {rows[1]} over {rows[2]}"),
    "near_zero": (analysis.mean, "{metric}: {value} points"),
    "rank_correlation": (
        lambda results, metric: analysis.correlation(results, "win_rate", metric),
        "Spearman's rho of win rate and {metric} {value} over {count} rows",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim (HOLDS, FAILS or UNKNOWN), and the figures that decide it."""

    claim: ClaimConfig
    outcome: str
    reason: str


def judge(results: Results) -> list[Verdict]:
    """The verdict on every claim of the study.

    With several comparisons a claim holds if all of them hold, and does not hold if one of them does not.
    """
    verdicts = []
    for claim in results.study.claims:
        compute = TESTS[claim.test][0]
        estimates = {rows: compute(results, *rows, claim.metric) for rows in claim.rows or ((),)}
        outcomes = {decide(claim, estimate) for estimate in estimates.values()}
        outcome = FAILS if FAILS in outcomes else HOLDS if outcomes == {HOLDS} else UNKNOWN
        reasons = [_reason(results, claim, rows, estimate) for rows, estimate in estimates.items()]
        verdicts.append(Verdict(claim, outcome, ". ".join(reasons)))
    return verdicts


def decide(claim: ClaimConfig, estimate: Estimate | None) -> str:
    """HOLDS if the interval lies above `claim.above` and the mean reaches `claim.min_mean`.

    FAILS if the whole interval lies below the larger of the two, else UNKNOWN. With the test `near_zero` the
    interval must lie within `claim.within` of zero instead.
    """
    if estimate is None or estimate.interval is None:
        return UNKNOWN
    (low, high), mean = estimate.interval, estimate.mean
    if claim.test == "near_zero":
        is_outside = low > claim.within or high < -claim.within
        return HOLDS if -claim.within <= low <= high <= claim.within else FAILS if is_outside else UNKNOWN
    if claim.direction == "lower":
        low, high, mean = -high, -low, -mean
    least = claim.above if claim.min_mean is None else max(claim.above, claim.min_mean)
    if low > claim.above and mean >= least:
        return HOLDS
    return FAILS if high < least else UNKNOWN


def _reason(results: Results, claim: ClaimConfig, rows: tuple[str, ...], found: Estimate | None) -> str:
    if found is None:
        absent = [row for row in rows if analysis.by_seed(results, row, claim.metric).empty]
        return f"{' and '.join(absent)}: {NOT_RUN}" if absent else "too few runs, or no seed in common"
    is_difference, is_rho = claim.test == "difference", claim.test == "rank_correlation"
    shown = "" if claim.test == "gain_kept" else "rho" if is_rho else claim.metric
    text = TESTS[claim.test][1].format(
        metric=analysis.label(claim.metric),
        rows=rows,
        value=found.text(shown, signed=is_difference),
        unit="" if claim.metric in analysis.DECIMALS else " points",
        count=found.num_seeds,
    )
    if is_rho:
        return text
    also = ((metric, analysis.difference(results, rows[0], rows[1], metric)) for metric in claim.also)
    text += "".join(f"; {analysis.label(m)} {e.text(m, signed=True)}" for m, e in also if e)
    return f"{text} ({found.num_seeds} seed{'' if found.num_seeds == 1 else 's'})"


@dataclass(frozen=True)
class Comparison:
    """Two rows under one condition of the map: the difference, its corrected interval, and what it shows.

    `found` has the plain 95 % interval. `outcome` is "better", "worse" or UNKNOWN, by the corrected interval.
    """

    question: str
    condition: str
    rows: tuple[str, str]
    found: Estimate | None
    corrected: Estimate | None
    outcome: str


def compare(results: Results) -> list[Comparison]:
    """All comparisons of the map, in temporal accuracy."""
    study, made = results.study, list[Comparison]()
    for question in study.map:
        for condition, rows in question.conditions.items():
            found = analysis.difference(results, *rows, "temporal")
            corrected = analysis.difference(results, *rows, "temporal", confidence=study.map_confidence)
            low, high = corrected.interval if corrected and corrected.interval else (0.0, 0.0)
            outcome = "better" if low > 0 else "worse" if high < 0 else UNKNOWN
            made.append(Comparison(question.text, condition, rows, found, corrected, outcome))
    return made
