"""The study's statistics on plain numbers: intervals over seeds, the share of a gain, rank correlation.

N points, G groups of points, R draws of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Draws of the bootstrap of a rank correlation.
NUM_RESAMPLES = 1000

#: Of fewer rows the bootstrap says too little: a correlation of them gets no interval.
MIN_ROWS = 5

Interval = list[float]
Array = npt.NDArray[np.float64]


def mean_interval(values: Sequence[float], *, step: float = 0.0) -> Interval | None:
    """The 95 % interval of a mean by Student's t; None for fewer than two values.

    `step` is the distance of two neighbouring values (one question of 200: 0.005). The spread is taken to be
    at least that of rounding to it: seeds that agree by chance do not make an interval without width.
    """
    if len(values) < 2:
        return None
    spread = max(float(np.std(values, ddof=1)), step / math.sqrt(12))
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    mean = float(np.mean(values))
    return [mean - half, mean + half]


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    """The 95 % interval of mean(above) / mean(below), paired by seed (Fieller 1954).

    None where there is none: fewer than two pairs, or a mean below that is not off zero itself.
    """
    if len(above) < 2:
        return None
    x, y = float(np.mean(above)), float(np.mean(below))
    weight = t_quantile(len(above) - 1) ** 2 / len(above)
    (xx, xy), (_, yy) = np.cov(above, below) * weight
    # The ratios R for which mean(above - R * below) is not off zero: a R^2 - 2 b R + c <= 0.
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, float(b * b - a * c)))
    return [float(b - root) / float(a), float(b + root) / float(a)]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rho; None for fewer than three points or where one side is all alike."""
    if len(x) < 3:
        return None
    rho = float(_rank_correlations(x, y, np.ones((1, len(x))))[0])
    return rho if math.isfinite(rho) else None


def correlation_interval(
    x: Sequence[float], y: Sequence[float], groups: Sequence[str], *, seed: int
) -> Interval | None:
    """The 95 % bootstrap interval of Spearman's rho; whole groups are drawn again, with replacement."""
    names, group_N = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if len(names) < MIN_ROWS:
        return None
    share = np.full(len(names), 1 / len(names))
    times_RG = np.random.default_rng(seed).multinomial(len(names), share, size=NUM_RESAMPLES)
    rho_R = _rank_correlations(x, y, times_RG[:, group_N].astype(np.float64))
    known = rho_R[np.isfinite(rho_R)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return [float(low), float(high)]


def _rank_correlations(x: Sequence[float], y: Sequence[float], times_RN: Array) -> Array:
    """Spearman's rho of each draw, in which point n stands so many times; NaN where a side is all alike."""
    rank_RN, other_RN = _centred_ranks(x, times_RN), _centred_ranks(y, times_RN)
    scale_R = np.sqrt((times_RN * rank_RN**2).sum(1) * (times_RN * other_RN**2).sum(1))
    product_R = (times_RN * rank_RN * other_RN).sum(1)
    rho_R: Array = np.full(len(times_RN), np.nan)
    np.divide(product_R, scale_R, out=rho_R, where=scale_R > 1e-9)
    return rho_R


def _centred_ranks(values: Sequence[float], times_RN: Array) -> Array:
    """Each point's rank in each draw less the mean rank; ties share the middle of their ranks."""
    value_N = np.asarray(values, np.float64)
    is_below_NN = value_N[:, None] < value_N[None, :]
    is_tied_NN = value_N[:, None] == value_N[None, :]
    rank_RN: Array = times_RN @ (is_below_NN + 0.5 * is_tied_NN)
    mean_R = (times_RN * rank_RN).sum(1) / times_RN.sum(1)
    rank_RN -= mean_R[:, None]
    return rank_RN
