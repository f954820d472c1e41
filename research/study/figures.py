"""From rows (one per run and seed) to means, paired differences, shares of a gain, rank correlations.

Shares are from 0 to 1, and differences are of such shares. A figure that cannot be had is absent, or None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from research.study.intervals import correlation_interval, mean_interval, rank_correlation, ratio_interval
from tempo.core.hashing import derive_seed

#: One run and seed, as `tempo study` collects it; and what is made of such rows.
Row = Mapping[str, Any]
Entry = dict[str, Any]

ACCURACIES = (
    *("temporal", "event_order", "conflicting", "group_score", "text_score", "video_score"),
    *("action", "speed", "direction", "attribute_change"),
)
SFT_START = ("sft_loss", "sft_grad_norm", "sft_grad_spread")
#: Everything that has a mean; `order` is the mean of event order and conflicting videos, `over_chance` is
#: temporal accuracy less that of drawing options.
MEASURES = (*ACCURACIES, "order", "over_chance", "static", "win_rate", "margin", *SFT_START)
#: What rows are compared by, and with which other row each.
COMPARED = ("temporal", "event_order", "conflicting", "group_score", "order", "static", "win_rate", "margin")
COMPARED_WITH: dict[str, tuple[str, ...]] = {
    "sft_only": (*COMPARED, *SFT_START),
    "method": COMPARED,
    "base": ("order", "win_rate", "margin"),
    # What SFT took away.
    "dpo_only": ("order", "event_order", "group_score", "win_rate"),
    # The controls of our best row.
    "method_twice": ("temporal", "event_order", "group_score"),
    "method_long": ("temporal", "event_order", "group_score"),
}

#: Kinds of SFT: the row that begins with it, and the one that comes to it after preferences.
SFT_KINDS = {
    "as in the method": ("sft_only", "method"),
    "four epochs": ("sft_long", "method_sft_long"),
    "of the weights themselves": ("sft_full", "method_sft_full"),
    "answers tell the true order": ("sft_true", "method_sft_true"),
}
#: Rows that are compared beside those: (row, against).
ALSO_COMPARED = (
    *((after, alone) for alone, after in SFT_KINDS.values() if alone != "sft_only"),
    ("method_sft_long", "sft_long_then_dpo"),
)

#: Rows of a model other than the first; their margins are on another scale.
OTHER_ARCHITECTURE = ("b_base", "b_sft_only", "b_method", "b_on_a")

#: Whose share of whose gain is kept: (row, the whole gain, from where both start).
SHARES = (
    ("a_on_b", "method", "sft_only"),
    ("b_on_a", "b_method", "b_sft_only"),
    ("data_1_8", "method", "sft_only"),
    ("data_1_4", "method", "sft_only"),
    ("data_1_4_long", "method", "sft_only"),
    ("data_1_2", "method", "sft_only"),
)


def value_of(row: Row, measure: str) -> float | None:
    """One figure of one row; None where the row lacks it or it is not finite."""
    if measure == "order":
        values = [value_of(row, name) for name in ("event_order", "conflicting")]
        known = [value for value in values if value is not None]
        return sum(known) / 2 if len(known) == 2 else None
    if measure == "over_chance":
        chance = (row.get("chance") or {}).get("temporal")
        value = row["accuracy"].get("temporal")
        value = None if chance is None or value is None else value - chance
    elif measure in SFT_START:
        value = _sft_start(row.get("sft_start") or {}, measure)
    elif measure == "static":
        value = row.get("static_accuracy")
    elif measure in ("win_rate", "margin"):
        value = (row.get("probe") or {}).get(measure)
    else:
        value = row["accuracy"].get(measure)
    return float(value) if value is not None and math.isfinite(value) else None


def _sft_start(start: Mapping[str, Sequence[float]], measure: str) -> float | None:
    """Mean loss, mean gradient norm, or the gradient norm's standard deviation over SFT's first steps."""
    values = start.get("loss" if measure == "sft_loss" else "grad_norm") or []
    if measure == "sft_grad_spread":
        return float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)) if len(values) else None


def by_seed(rows: Iterable[Row], name: str, measure: str) -> dict[int, float]:
    """A measure of one row, by seed; empty where it was not run."""
    found = {row["seed"]: value_of(row, measure) for row in rows if row["row"] == name}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def row_names(rows: Iterable[Row]) -> list[str]:
    """Names of rows in the order in which they first come."""
    return list(dict.fromkeys(row["row"] for row in rows))


def means(rows: Sequence[Row]) -> list[Entry]:
    """Mean and 95 % interval over seeds of every row and measure; one seed has no interval."""
    found = []
    for name in row_names(rows):
        for measure in MEASURES:
            if values := [*by_seed(rows, name, measure).values()]:
                interval = mean_interval(values, step=_step(rows, name, measure))
                found.append({"row": name, "measure": measure, **_figures(values, interval, measure)})
    return found


def differences(rows: Sequence[Row]) -> list[Entry]:
    """Row minus `against`, paired by seed: every row against SFT alone, the method and the base of its own
    architecture, against the base only what may rise with training; then `ALSO_COMPARED`."""
    found: list[Entry] = []
    for name in row_names(rows):
        home = "b_" if name in OTHER_ARCHITECTURE else ""
        for against, measures in COMPARED_WITH.items():
            pairs = (_difference(rows, name, home + against, measure) for measure in measures)
            found += [entry for entry in pairs if entry and name != home + against]
    for name, against in ALSO_COMPARED:
        entries = (_difference(rows, name, against, measure) for measure in (*COMPARED, *SFT_START))
        found += [entry for entry in entries if entry]
    return found


def _difference(rows: Sequence[Row], name: str, against: str, measure: str) -> Entry | None:
    mine, theirs = by_seed(rows, name, measure), by_seed(rows, against, measure)
    values = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    if not values:
        return None
    interval = mean_interval(values, step=_step(rows, name, measure))
    return {"row": name, "against": against, "measure": measure, **_figures(values, interval)}


def _step(rows: Iterable[Row], name: str, measure: str) -> float:
    """One question's share of a measure's questions; 0 where their number is not known."""
    counts = [(row.get("num_samples") or {}).get(measure) or 0 for row in rows if row["row"] == name]
    return 1 / max(counts) if any(counts) else 0.0


def _figures(values: Sequence[float], interval: list[float] | None, measure: str = "") -> Entry:
    """What every entry says: mean, interval and number of seeds; the interval of a share stays in 0 to 1."""
    if interval and measure not in ("", "margin", "over_chance", *SFT_START):
        interval = [max(0.0, interval[0]), min(1.0, interval[1])]
    return {
        "mean": _rounded(float(np.mean(values))),
        "interval": [_rounded(bound) for bound in interval] if interval else None,
        "num_seeds": len(values),
    }


def _rounded(value: float) -> float:
    # Adding 0 makes of -0.0 a 0.0.
    return round(value, 5) + 0.0


def shares(rows: Sequence[Row]) -> list[Entry]:
    """Which share of the gain in a measure is kept, with Fieller's 95 % interval over seeds.

    (row - start) / (whole - start); None as the interval where the whole gain is not off zero.
    """
    found = []
    for name, whole, start in SHARES:
        for measure in ("temporal", "order", "group_score"):
            at = [by_seed(rows, each, measure) for each in (name, whole, start)]
            seeds = sorted({*at[0]} & {*at[1]} & {*at[2]})
            kept = [at[0][seed] - at[2][seed] for seed in seeds]
            gain = [at[1][seed] - at[2][seed] for seed in seeds]
            if seeds and abs(float(np.mean(gain))) > 1e-9:
                interval = ratio_interval(kept, gain)
                entry = _figures([float(np.mean(kept)) / float(np.mean(gain))], interval)
                keys = {"row": name, "of": whole, "start": start, "measure": measure}
                found.append({**keys, **entry, "num_seeds": len(seeds)})
    return found


def correlations(rows: Sequence[Row]) -> dict[str, Any]:
    """Spearman's rho of the probe with accuracy: over rows (means over seeds), over single runs, and over
    the rows that were trained by preferences only. Rows of the other architecture are left out.
    """
    own = [row for row in rows if row["row"] not in OTHER_ARCHITECTURE]
    trained = [row for row in own if any(phase.startswith("dpo") for phase in row.get("phases") or ())]
    return {
        probe: {
            target: {
                "rows": _correlation(own, probe, target, single=False),
                "runs": _correlation(own, probe, target, single=True),
                "trained_rows": _correlation(trained, probe, target, single=False),
            }
            for target in ("temporal", "order")
        }
        for probe in ("win_rate", "margin")
    }


def _correlation(rows: Sequence[Row], probe: str, target: str, *, single: bool) -> Entry:
    points = [(row["row"], value_of(row, probe), value_of(row, target)) for row in rows]
    known = [(name, x, y) for name, x, y in points if x is not None and y is not None]
    if not single:
        names = list(dict.fromkeys(name for name, _, _ in known))
        known = [(name, *np.mean([p[1:] for p in known if p[0] == name], axis=0).tolist()) for name in names]
    groups = [name for name, _, _ in known]
    x, y = ([float(point[i]) for point in known] for i in (1, 2))
    rho = rank_correlation(x, y)
    seed = derive_seed(0, "study", probe, target, single)
    interval = correlation_interval(x, y, groups, seed=seed) if rho is not None else None
    return {
        "rho": None if rho is None else _rounded(rho),
        "interval": [_rounded(bound) for bound in interval] if interval else None,
        "num_rows": len({*groups}),
        "num_points": len(known),
    }
