"""95 % confidence intervals of means and shares, for values that are correlated within a video."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

#: Number of bootstrap samples; with this many, the error of an interval is well below a tenth of its width.
NUM_RESAMPLES = 1000


def cluster_interval(values: ArrayLike, clusters: Sequence[str], *, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of `values` [N], resampled by cluster (usually a video).

    Whole clusters are drawn with replacement, because values of one video are not independent. The order of
    the values does not affect the result. Raises ValueError for fewer than two clusters.
    """
    from scipy.stats import bootstrap

    names, cluster_N = np.unique(np.array(clusters, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a bootstrap needs at least two clusters, but these values have {len(names)}")
    sum_C = np.bincount(cluster_N, np.asarray(values, np.float64))
    size_C = np.bincount(cluster_N)
    interval = bootstrap(
        (sum_C, size_C),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def share_interval(
    values: ArrayLike, clusters: Sequence[str], *, seed: int, min_clusters: int = 5
) -> tuple[float, float]:
    """The 95 % interval of a share: the mean of `values` [N], each between 0 and 1.

    Like `cluster_interval`, except where the bootstrap would be too narrow: with fewer than `min_clusters`
    clusters, or if all values are 0 or all are 1. Then it is Wilson's interval with one sample per cluster.
    (0, 1) if there are no values.
    """
    num_clusters = len(set(clusters))
    share = float(np.asarray(values, np.float64).mean()) if num_clusters else 0.0
    if num_clusters < min_clusters or share in (0.0, 1.0):
        return wilson_interval(share * num_clusters, num_clusters)
    # A weighted mean of resampled rows can exceed 1.
    return tuple(np.clip(cluster_interval(values, clusters, seed=seed), 0.0, 1.0).tolist())


def wilson_interval(num_right: float, num_samples: int, *, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of independent samples (Wilson 1927); (0, 1) if there are none."""
    if num_samples == 0:
        return 0.0, 1.0
    share = num_right / num_samples
    scale = 1 + z * z / num_samples
    centre = (share + z * z / (2 * num_samples)) / scale
    half = z * math.sqrt(share * (1 - share) / num_samples + z * z / (4 * num_samples**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
