"""95 % confidence intervals of shares and of means over videos."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

#: The error of the bootstrap itself is then well under a tenth of the interval's width.
NUM_RESAMPLES = 1000


def wilson_interval(num_right: float, num_samples: int, *, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) without samples."""
    if num_samples == 0:
        return 0.0, 1.0
    share = num_right / num_samples
    scale = 1 + z * z / num_samples
    centre = (share + z * z / (2 * num_samples)) / scale
    half = z * math.sqrt(share * (1 - share) / num_samples + z * z / (4 * num_samples**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def cluster_interval(values: ArrayLike, groups: Sequence[str], *, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean whose values depend on each other within a group.

    A group is a video: whole groups are resampled, with replacement. The interval has no width when all
    values are equal or there is only one group.
    """
    # scipy.stats takes half a second to import.
    from scipy.stats import bootstrap

    names, group_N = np.unique(np.array(groups, dtype=str), return_inverse=True)
    sum_G, size_G = np.bincount(group_N, np.asarray(values, np.float64)), np.bincount(group_N)
    if len(names) == 1:
        return float(sum_G[0] / size_G[0]), float(sum_G[0] / size_G[0])
    interval = bootstrap(
        (sum_G, size_G),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=NUM_RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
