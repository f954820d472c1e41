"""Figures of a study in words: looked up, with their intervals, in percent or points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from research.study.figures import SFT_START, Entry
from tempo.evaluation.benchmark import percent

NOT_RUN = "not run"
#: Measures that are no shares, so neither percent nor points.
PLAIN = ("margin", *SFT_START)

NAMES = {
    "temporal": "temporal accuracy",
    "event_order": "event order",
    "conflicting": "conflicting, one by one",
    "group_score": "conflicting, both right",
    "text_score": "conflicting, text score",
    "video_score": "conflicting, video score",
    "attribute_change": "attribute change",
    "order": "order",
    "over_chance": "temporal accuracy over chance",
    "static": "static questions",
    "win_rate": "probe win rate",
    "margin": "probe margin",
    "sft_loss": "loss in SFT's first steps",
    "sft_grad_norm": "gradient norm in SFT's first steps",
    "sft_grad_spread": "spread of the gradient norm in SFT's first steps",
}


def name_of(measure: str) -> str:
    """What people call a measure."""
    return NAMES.get(measure, measure)


def find(entries: Sequence[Entry], **keys: str) -> Entry | None:
    """The entry that has these values, or None."""
    return next((entry for entry in entries if all(entry[key] == keys[key] for key in keys)), None)


def find_mean(study: Mapping[str, Any], row: str, measure: str) -> Entry | None:
    """A row's mean of a measure, or None."""
    return find(study["means"], row=row, measure=measure)


def find_difference(study: Mapping[str, Any], row: str, against: str, measure: str) -> Entry | None:
    """Row minus `against`, also where the study has it the other way round; None where it has neither."""
    entries = study["differences"]
    if entry := find(entries, row=row, against=against, measure=measure):
        return entry
    other = find(entries, row=against, against=row, measure=measure)
    if other is None:
        return None
    interval = [-other["interval"][1] + 0.0, -other["interval"][0] + 0.0] if other["interval"] else None
    return {**other, "row": row, "against": against, "mean": -other["mean"] + 0.0, "interval": interval}


def share_text(entry: Entry | None, measure: str = "") -> str:
    """A mean with its interval: percent for shares, three digits for the rest."""
    if entry is None:
        return NOT_RUN
    show = (lambda value: f"{value:.3f}") if measure in PLAIN else percent
    return _with_interval(entry, show)


def points_text(entry: Entry | None, measure: str = "") -> str:
    """A difference with its sign and interval: points for shares, three digits for the rest."""
    if entry is None:
        return NOT_RUN
    return _with_interval(entry, lambda value: _signed(value, measure))


def _signed(value: float, measure: str) -> str:
    text = f"{value:+.3f}" if measure in PLAIN else f"{100 * value:+.1f}"
    # What rounds to nothing has no sign.
    return text if float(text) else text[1:]


def _with_interval(entry: Entry, show: Any) -> str:
    if entry["interval"] is None:
        # A ratio over many seeds may have none either.
        return f"{show(entry['mean'])} ({'one seed' if entry['num_seeds'] == 1 else 'no interval'})"
    low, high = entry["interval"]
    return f"{show(entry['mean'])} [{show(low)}, {show(high)}]"


def seeds_text(entry: Entry) -> str:
    """How many seeds stand behind it."""
    return f"{entry['num_seeds']} seed{'' if entry['num_seeds'] == 1 else 's'}"


def rho_text(entry: Entry) -> str:
    """A rank correlation with its interval."""
    if entry["rho"] is None:
        return "-"
    interval = entry["interval"]
    bounds = f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "(too few rows for an interval)"
    return f"{entry['rho']:.2f} {bounds}"
