"""What a study says about each claim: it holds, it does not hold, or it cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from research.study import analysis
from research.study.analysis import NOT_RUN, Estimate, Interval, Results
from research.study.config import ClaimConfig

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"

#: What a claim compares, given the results, the rows of one comparison, and the metric.
TESTS: Mapping[str, Callable[..., Estimate | None]] = {
    "difference": analysis.difference,
    "gain_kept": analysis.gain_kept,
    "near_zero": analysis.mean,
    "rank_correlation": lambda results, metric: analysis.correlation(results, "win_rate", metric),
}


@dataclass(frozen=True)
class Verdict:
    """HOLDS, FAILS or UNKNOWN, and the estimate of every comparison, by its rows.

    An estimate is None where the rows have not run, or have no seed in common.
    """

    claim: ClaimConfig
    outcome: str
    estimates: dict[tuple[str, ...], Estimate | None]


def judge(results: Results) -> list[Verdict]:
    """The verdict on every claim of the study.

    With several comparisons a claim holds if all of them hold, and does not hold if one of them does not.
    """
    verdicts = []
    for claim in results.study.claims:
        estimates = {rows: TESTS[claim.test](results, *rows, claim.metric) for rows in claim.rows or ((),)}
        outcomes = {_outcome(claim, estimate) for estimate in estimates.values()}
        outcome = FAILS if FAILS in outcomes else HOLDS if outcomes == {HOLDS} else UNKNOWN
        verdicts.append(Verdict(claim, outcome, estimates))
    return verdicts


def _outcome(claim: ClaimConfig, estimate: Estimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return UNKNOWN
    low, high = estimate.interval
    if claim.test == "near_zero":
        inside = -claim.within <= low and high <= claim.within
        outside = low > claim.within or high < -claim.within
        return HOLDS if inside else FAILS if outside else UNKNOWN
    if claim.direction == "lower":
        return compare((-high, -low), -estimate.mean, above=claim.above, min_mean=claim.min_mean)
    return compare((low, high), estimate.mean, above=claim.above, min_mean=claim.min_mean)


def compare(interval: Interval, mean: float, *, above: float = 0.0, min_mean: float | None = None) -> str:
    """HOLDS if the interval lies above `above` and the mean reaches `min_mean`; FAILS if all of the interval
    lies below the larger of the two; else UNKNOWN."""
    least = above if min_mean is None else max(above, min_mean)
    if interval[0] > above and mean >= least:
        return HOLDS
    return FAILS if interval[1] < least else UNKNOWN


def reason(results: Results, verdict: Verdict) -> str:
    """The figures behind a verdict, in words."""
    return ". ".join(_reason(results, verdict.claim, rows, e) for rows, e in verdict.estimates.items())


def _reason(results: Results, claim: ClaimConfig, rows: tuple[str, ...], found: Estimate | None) -> str:
    name = analysis.label(claim.metric)
    if found is None:
        absent = [row for row in rows if analysis.by_seed(results, row, claim.metric).empty]
        return f"{' and '.join(absent)}: {NOT_RUN}" if absent else "too few runs, or no seed in common"
    seeds = f"({found.num_seeds} seed{'' if found.num_seeds == 1 else 's'})"
    if claim.test == "rank_correlation":
        return f"Spearman's rho of win rate and {name} {rho_text(found)} over {found.num_seeds} rows"
    if claim.test == "gain_kept":
        return f"{rows[0]} keeps {found.text()} % of the gain of {rows[1]} over {rows[2]} {seeds}"
    if claim.test == "near_zero":
        return f"{name}: {found.text(claim.metric)} points {seeds}"
    unit = "" if claim.metric in analysis.PLAIN else " points"
    also = ((metric, analysis.difference(results, rows[0], rows[1], metric)) for metric in claim.also)
    beside = "".join(f"; {analysis.label(m)} {e.text(m, signed=True)}" for m, e in also if e)
    return f"{name}, {rows[0]} minus {rows[1]}: {found.text(claim.metric, signed=True)}{unit}{beside} {seeds}"


def rho_text(found: Estimate | None) -> str:
    """Spearman's rho with its interval; a dash where there are too few points."""
    if found is None:
        return "-"
    low_high = found.interval and ", ".join(f"{bound:.2f}" for bound in found.interval)
    return f"{found.mean:.2f} {f'[{low_high}]' if low_high else '(too few rows for an interval)'}"
