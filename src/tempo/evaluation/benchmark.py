"""The benchmark: reading samples, and accuracies with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tempo.records import Outcome, Sample
from tempo.store import read_rows

#: Aspects that one frame answers; the rest need time.
STATIC_ASPECTS = ("static",)

#: Draws of the bootstrap; the interval's own error is then well under a tenth of its width.
NUM_RESAMPLES = 1000


def read_samples(path: Path) -> list[Sample]:
    """The samples of a benchmark file; raises ValueError that names the line that is none."""
    samples = read_rows(path, Sample, key="evaluation.benchmark")
    first: dict[str, int] = {}
    for number, sample in enumerate(samples, 1):
        if (other := first.setdefault(sample.id, number)) != number:
            raise ValueError(f"{path} line {number}: {sample.id!r} is the id of line {other} too")
    return samples


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy, number of samples and 95 % interval: temporal overall, static, by aspect and by format.

    `group_score` is the share of conflicting groups with every sample right (Vinoground's text score for
    two videos and two captions asked of each).
    """
    temporal = [o for o in outcomes if o.aspect not in STATIC_ASPECTS]
    return {
        **score(temporal),
        "static": score([o for o in outcomes if o.aspect in STATIC_ASPECTS]),
        "group_score": score_groups([o for o in outcomes if o.group]),
        "by_aspect": _scores_by(outcomes, lambda outcome: outcome.aspect),
        "by_format": _scores_by(temporal, lambda outcome: outcome.format),
    }


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy of some outcomes with its number of samples and 95 % interval."""
    return _share(sum(outcome.is_right for outcome in outcomes), len(outcomes))


def score_groups(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Share of groups whose samples are all right."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.group)
    groups = [list(rows) for _, rows in groupby(ordered, key=lambda outcome: outcome.group)]
    return _share(sum(all(row.is_right for row in rows) for rows in groups), len(groups))


def wilson_interval(num_right: int, num_samples: int, *, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) without samples."""
    if num_samples == 0:
        return 0.0, 1.0
    share = num_right / num_samples
    scale = 1 + z * z / num_samples
    centre = (share + z * z / (2 * num_samples)) / scale
    half = z * math.sqrt(share * (1 - share) / num_samples + z * z / (4 * num_samples**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _share(num_right: int, num_samples: int) -> dict[str, Any]:
    accuracy = round(num_right / num_samples, 4) if num_samples else None
    interval = [round(bound, 4) for bound in wilson_interval(num_right, num_samples)]
    return {"accuracy": accuracy, "num_samples": num_samples, "interval": interval}


def _scores_by(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, Any]:
    names = sorted({key(outcome) for outcome in outcomes})
    return {name: score([o for o in outcomes if key(o) == name]) for name in names}


def cluster_interval(values: ArrayLike, groups: Sequence[str], *, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean whose values are alike within a group (a video).

    Whole groups are drawn again, with replacement. Where all values are the same it knows no spread.
    """
    names, group_N = np.unique(np.array(groups, dtype=str), return_inverse=True)
    sum_G, size_G = np.bincount(group_N, np.asarray(values, np.float64)), np.bincount(group_N)
    share = np.full(len(names), 1 / len(names))
    times_RG = np.random.default_rng(seed).multinomial(len(names), share, size=NUM_RESAMPLES)
    low, high = np.quantile((times_RG @ sum_G) / (times_RG @ size_G), [0.025, 0.975])
    return float(low), float(high)
