"""What decides a claim: a verdict from intervals, and the figures behind it in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.study.figures import Entry, by_seed
from research.study.words import (
    NOT_RUN,
    find,
    find_difference,
    find_mean,
    name_of,
    points_text,
    rho_text,
    seeds_text,
    share_text,
)

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"

Study = Mapping[str, Any]
#: One of the three, and why.
Verdict = tuple[str, str]


def verdict_of(interval: Sequence[float] | None, mean: float, *, over: float, reach: float = 0.0) -> str:
    """Holds if the interval lies above `over` and the mean reaches `reach`; does not if all of it lies below
    the larger of them; else it cannot be told. Without an interval nothing can be told."""
    if interval is None:
        return UNKNOWN
    if interval[0] > over and mean >= reach:
        return HOLDS
    return FAILS if interval[1] < max(over, reach) else UNKNOWN


def ahead(
    study: Study,
    row: str,
    against: str,
    measure: str = "temporal",
    *,
    over: float = 0.0,
    reach: float = 0.0,
    beside: Sequence[str] = (),
) -> Verdict:
    """Whether a row is ahead of another in a measure, by the paired difference over seeds.

    The measures `beside` it are told, and decide nothing.
    """
    entry = find_difference(study, row, against, measure)
    if entry is None:
        return UNKNOWN, _missing(study, row, against, measure)
    why = f"{name_of(measure)}, {row} minus {against}: {points_text(entry, measure)} points"
    for name in beside:
        if other := find_difference(study, row, against, name):
            why += f"; {name_of(name)} {points_text(other, name)}"
    return verdict_of(
        entry["interval"], entry["mean"], over=over, reach=reach
    ), f"{why} ({seeds_text(entry)})"


def lower(study: Study, row: str, against: str, measure: str) -> Verdict:
    """Whether a row is below another in a measure of SFT's start."""
    entry = find_difference(study, row, against, measure)
    if entry is None:
        return UNKNOWN, _missing(study, row, against, measure)
    turned = [-entry["interval"][1], -entry["interval"][0]] if entry["interval"] else None
    both = (f"{name} {share_text(find_mean(study, name, measure), measure)}" for name in (row, against))
    why = f"{name_of(measure)}: {', '.join(both)}; difference {points_text(entry, measure)}"
    return verdict_of(turned, -entry["mean"], over=0.0), f"{why} ({seeds_text(entry)})"


def _missing(study: Study, row: str, against: str, measure: str) -> str:
    """Why two rows cannot be compared."""
    absent = [name for name in (row, against) if not by_seed(study["rows"], name, measure)]
    if not absent:
        return f"{row} and {against} have no seed in common"
    return f"{' and '.join(absent)}: {NOT_RUN}, or without {name_of(measure)}"


def all_of(*judges: Callable[[Study], Verdict]) -> Callable[[Study], Verdict]:
    """Holds if all hold, does not if one does not."""

    def judge(study: Study) -> Verdict:
        verdicts = [judge(study) for judge in judges]
        given = {verdict for verdict, _ in verdicts}
        together = FAILS if FAILS in given else HOLDS if given == {HOLDS} else UNKNOWN
        return together, ". ".join(why for _, why in verdicts)

    return judge


def kept(study: Study, row: str, *, at_least: float) -> Verdict:
    """Whether a row keeps this share of the gain in temporal accuracy."""
    entry = find(study["shares"], row=row, measure="temporal")
    if entry is None:
        return UNKNOWN, f"{row}, or what it is compared with: {NOT_RUN}"
    verdict = verdict_of(entry["interval"], entry["mean"], over=at_least)
    why = f"{row} keeps {share_text(entry)} % of the gain of {entry['of']} over {entry['start']}"
    return verdict, f"{why} ({seeds_text(entry)})"


def blind_at_chance(study: Study, *, within: float) -> Verdict:
    """Whether the model without video is right as often as one that draws options."""
    entry = find_mean(study, "blind", "over_chance")
    if entry is None:
        return UNKNOWN, f"blind: {NOT_RUN}"
    why = f"{name_of('over_chance')}: {share_text(entry)} points ({seeds_text(entry)})"
    if entry["interval"] is None:
        return UNKNOWN, why
    low, high = entry["interval"]
    outside = low > within or high < -within
    inside = -within <= low and high <= within
    return FAILS if outside else HOLDS if inside else UNKNOWN, why


def predicts(study: Study) -> Verdict:
    """Whether the probe's win rate ranks the rows as temporal accuracy does."""
    entry: Entry = study["correlation"]["win_rate"]["temporal"]["rows"]
    if entry["rho"] is None:
        return UNKNOWN, f"{entry['num_rows']} rows with a probe, or all alike: no rank correlation"
    why = f"Spearman's rho of win rate and temporal accuracy {rho_text(entry)} over {entry['num_rows']} rows"
    trained: Entry = study["correlation"]["win_rate"]["temporal"]["trained_rows"]
    why += f"; over those trained by preferences {rho_text(trained)}"
    return verdict_of(entry["interval"], entry["rho"], over=0.0), why
