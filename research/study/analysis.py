"""The statistics of a study: a table of row x seed x metric, and estimates with intervals from it.

All comparisons are paired by seed: two rows with the same seed saw the same videos and questions. Intervals
are 95 % intervals over seeds. Accuracies and win rates are shares between 0 and 1; differences are of such
shares.

N points in G groups, R draws of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from research.study.config import StudyConfig
from tempo.core.hashing import derive_seed

#: The names of metrics in tables and plots; other metrics are shown under their own names.
LABELS = {
    "temporal": "temporal accuracy",
    "conflicting": "conflicting, one by one",
    "group_score": "conflicting, both right",
    "over_chance": "temporal accuracy over chance",
    "static": "static questions",
    "win_rate": "probe win rate",
    "margin": "probe margin",
    "sft_loss": "loss in SFT's first steps",
    "sft_grad_norm": "gradient norm in SFT's first steps",
    "sft_grad_spread": "spread of the gradient norm in SFT's first steps",
}
#: Decimals of metrics that are plain numbers; all others are shares, shown in percent.
DECIMALS = {"margin": 3, "sft_loss": 3, "sft_grad_norm": 3, "sft_grad_spread": 3, "rho": 2}
NOT_RUN = "not run"

#: Draws of the bootstrap of a rank correlation, and the fewest rows for which it is meaningful.
NUM_RESAMPLES, MIN_ROWS = 1000, 5

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean, difference, ratio or rank correlation with its 95 % interval, rounded to five decimals.

    The interval is None with one seed, too few rows, or for a ratio to a gain that may be zero. `num_seeds`
    counts the seeds, or the points of a rank correlation.
    """

    mean: float
    interval: Interval | None
    num_seeds: int

    def text(self, metric: str = "", *, signed: bool = False) -> str:
        """The mean and interval in percent (or as plain numbers); `signed` adds signs, for differences."""

        def show(value: float) -> str:
            text = f"{value:+.{DECIMALS[metric]}f}" if metric in DECIMALS else f"{100 * value:+.1f}"
            # A value that rounds to zero has no sign.
            return text[1:] if not float(text) else text if signed else text.removeprefix("+")

        if self.interval is None:
            # A ratio may lack an interval even with many seeds.
            return f"{show(self.mean)} ({'one seed' if self.num_seeds == 1 else 'no interval'})"
        return f"{show(self.mean)} [{show(self.interval[0])}, {show(self.interval[1])}]"


@dataclass(frozen=True)
class Results:
    """The configuration of a study, its runs (one for each row and seed), and their origin."""

    study: StudyConfig
    runs: Sequence[Mapping[str, Any]]
    origin: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[str]:
        """Names of the rows that have runs, in the order of their first runs."""
        return list(dict.fromkeys(run["row"] for run in self.runs))

    def baseline(self, row: str, name: str) -> str:
        """The row that `name` refers to: a baseline of `row`, one of the study, or a row of that name."""
        own = self.study.rows[row].baselines if row in self.study.rows else {}
        return (self.study.baselines | own).get(name, name)

    @cached_property
    def values(self) -> pd.DataFrame:
        """Metrics (columns) of runs (index: row, seed), NaN where absent; ValueError for duplicate runs."""
        values = self._frame([_metrics(run) for run in self.runs]).replace([np.inf, -np.inf], np.nan)
        if not values.index.is_unique:
            twice = values.index[values.index.duplicated()][0]
            raise ValueError(f"several runs of row and seed {twice}. Keep one of them")
        return values

    @cached_property
    def num_questions(self) -> pd.DataFrame:
        """The number of questions behind a metric, in the form of `values`; NaN for metrics without any."""
        return self._frame([run.get("num_samples") or {} for run in self.runs])

    def _frame(self, cells: list[dict[str, Any]]) -> pd.DataFrame:
        keys = pd.MultiIndex.from_arrays([[run[key] for run in self.runs] for key in ("row", "seed")])
        return pd.DataFrame(cells, index=keys.set_names(["row", "seed"]), dtype=float).sort_index()


def _metrics(run: Mapping[str, Any]) -> dict[str, float | None]:
    """All metrics of one run.

    `order` is the mean of event order and conflicting videos, `over_chance` is temporal accuracy over chance,
    and `sft_grad_spread` is the standard deviation of the gradient norm over the first steps of SFT.
    """
    accuracy, probe, start = run["accuracy"], run.get("probe") or {}, run.get("sft_start") or {}
    losses, norms = start.get("loss") or [math.nan], start.get("grad_norm") or [math.nan]
    nan = math.nan
    return {
        **accuracy,
        **{f"win_rate_{kind}": score["win_rate"] for kind, score in (probe.get("by_kind") or {}).items()},
        "order": (accuracy.get("event_order", nan) + accuracy.get("conflicting", nan)) / 2,
        "over_chance": accuracy.get("temporal", nan) - (run.get("chance") or {}).get("temporal", nan),
        "static": run.get("static_accuracy"),
        "win_rate": probe.get("win_rate"),
        "margin": probe.get("margin"),
        "sft_loss": float(np.mean(losses)),
        "sft_grad_norm": float(np.mean(norms)),
        "sft_grad_spread": float(np.std(norms, ddof=1)) if len(norms) > 1 else nan,
    }


def label(metric: str) -> str:
    """The name of a metric in tables and plots."""
    return LABELS.get(metric, metric.replace("_", " "))


def by_seed(results: Results, row: str, metric: str) -> pd.Series:
    """The values of a metric of one row, indexed by seed; empty where it was not measured."""
    if row not in results.rows or metric not in results.values:
        return pd.Series(dtype=float)
    return results.values.loc[row, metric].dropna()


def mean(results: Results, row: str, metric: str) -> Estimate | None:
    """The mean of a metric over seeds; None where it was not measured. Intervals of shares stay in [0, 1]."""
    found = _mean(results, row, metric, by_seed(results, row, metric))
    if found is None or found.interval is None or metric in (*DECIMALS, "over_chance"):
        return found
    low, high = found.interval
    return Estimate(found.mean, (max(0.0, low), min(1.0, high)), found.num_seeds)


def difference(
    results: Results, row: str, against: str, metric: str, *, confidence: float = 0.95
) -> Estimate | None:
    """Row minus `against`, paired by seed; None where they have no seed in common."""
    values = (by_seed(results, row, metric) - by_seed(results, against, metric)).dropna()
    return _mean(results, row, metric, values, confidence)


def _mean(
    results: Results, row: str, metric: str, values: pd.Series, confidence: float = 0.95
) -> Estimate | None:
    """The mean of values of a metric; None without values."""
    if values.empty:
        return None
    counts = results.num_questions
    num_questions = counts.loc[row, metric].max() if metric in counts else 0
    step = 1 / num_questions if num_questions > 0 else 0.0
    return _estimate(values.mean(), mean_interval(values, step=step, confidence=confidence), len(values))


def gain_kept(results: Results, row: str, whole: str, start: str, metric: str) -> Estimate | None:
    """The share of a gain that a row keeps, (row - start) / (whole - start), with Fieller's interval.

    None where the three have no seed in common, or the gain is zero.
    """
    columns = {name: by_seed(results, name, metric) for name in (row, whole, start)}
    table = pd.DataFrame(columns).dropna()
    kept, gain = table[row] - table[start], table[whole] - table[start]
    if table.empty or abs(gain.mean()) <= 1e-9:
        return None
    return _estimate(kept.mean() / gain.mean(), ratio_interval(kept, gain), len(table))


def correlation(
    results: Results, probe: str, target: str, *, single_runs: bool = False, only_dpo: bool = False
) -> Estimate | None:
    """Spearman's rho of two metrics over rows (means over seeds) or over `single_runs`.

    Only `comparable_rows` count, and with `only_dpo` those of them that were trained with DPO. None for fewer
    than three points, or where all values of one metric are equal.
    """
    rows = comparable_rows(results, only_dpo=only_dpo)
    values = results.values.reindex(columns=[probe, target]).dropna()
    points = values[values.index.isin(rows, level="row")]
    points = points if single_runs else points.groupby("row").mean()
    rho = rank_correlation(points[probe], points[target])
    if rho is None:
        return None
    seed = derive_seed(0, "study", probe, target, single_runs)
    groups = points.index.get_level_values("row")
    return _estimate(rho, correlation_interval(points[probe], points[target], groups, seed=seed), len(points))


def comparable_rows(results: Results, *, only_dpo: bool = False) -> list[str]:
    """Rows of the study's own model: the probe margins of other models have another scale."""
    dpo = {run["row"] for run in results.runs if any(p.startswith("dpo") for p in run.get("phases") or ())}
    own = [row for row in results.rows if row not in results.study.rows or not results.study.rows[row].model]
    return [row for row in own if row in dpo or not only_dpo]


def mean_interval(
    values: Sequence[float] | pd.Series, *, step: float = 0.0, confidence: float = 0.95
) -> Interval | None:
    """The interval of a mean by Student's t; None for fewer than two values.

    `step` is the smallest possible difference of two values (one question of 200: 0.005). The spread is at
    least that of rounding to `step`, so that seeds that agree by chance do not give a zero-width interval.
    """
    if len(values) < 2:
        return None
    spread = max(float(np.std(values, ddof=1)), step / math.sqrt(12))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def ratio_interval(above: Sequence[float] | pd.Series, below: Sequence[float] | pd.Series) -> Interval | None:
    """The 95 % interval of mean(above) / mean(below), paired by seed (Fieller 1954).

    None for fewer than two pairs, and if the mean of `below` does not differ significantly from zero.
    """
    if len(above) < 2:
        return None
    x, y = float(np.mean(above)), float(np.mean(below))
    weight = stats.t.ppf(0.975, len(above) - 1) ** 2 / len(above)
    (xx, xy), (_, yy) = np.cov(above, below) * weight
    # The ratios R for which mean(above - R * below) may be zero: a R^2 - 2 b R + c <= 0.
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, float(b * b - a * c)))
    return float(b - root) / float(a), float(b + root) / float(a)


def rank_correlation(x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series) -> float | None:
    """Spearman's rho; None for fewer than three points, or where all values of one side are equal."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def correlation_interval(
    x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series, groups: Sequence[str], *, seed: int
) -> Interval | None:
    """The 95 % bootstrap interval of Spearman's rho; whole groups are drawn, with replacement.

    The seeds of one row are not independent: drawing single runs would make the interval too narrow. None for
    fewer than MIN_ROWS groups.
    """
    names, group_N = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if len(names) < MIN_ROWS:
        return None
    chances = np.full(len(names), 1 / len(names))
    times_RG = np.random.default_rng(seed).multinomial(len(names), chances, size=NUM_RESAMPLES)
    times_RN = times_RG[:, group_N].astype(float)
    x_RN, y_RN = _centred_ranks(x, times_RN), _centred_ranks(y, times_RN)
    scale_R = np.sqrt((times_RN * x_RN**2).sum(1) * (times_RN * y_RN**2).sum(1))
    product_R = (times_RN * x_RN * y_RN).sum(1)
    rho_R = np.divide(product_R, scale_R, out=np.full(len(times_RN), np.nan), where=scale_R > 1e-9)
    low, high = np.nanquantile(rho_R, [0.025, 0.975])
    return float(low), float(high)


def _centred_ranks(values: Any, times_RN: np.ndarray) -> np.ndarray:
    """Ranks [R, N] in samples that contain point n `times_RN[r, n]` times, centred; ties share a rank."""
    value_N = np.asarray(values, np.float64)
    lower_NN, tied_NN = value_N[:, None] < value_N, value_N[:, None] == value_N
    rank_RN = times_RN @ (lower_NN + 0.5 * tied_NN)
    return rank_RN - ((times_RN * rank_RN).sum(1) / times_RN.sum(1))[:, None]


def _estimate(value: float, interval: Interval | None, num_seeds: int) -> Estimate:
    # Adding 0 turns -0.0 into 0.0.
    low, high = (round(bound, 5) + 0.0 for bound in interval or (0, 0))
    return Estimate(round(float(value), 5) + 0.0, (low, high) if interval else None, num_seeds)
