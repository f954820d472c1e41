"""The benchmark: reading samples, and accuracies with their intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tempo.core.records import Outcome, Sample
from tempo.core.store import read_rows

#: Aspects that one frame answers; the rest need time.
STATIC_ASPECTS = ("static",)

#: Draws of the bootstrap; the interval's own error is then well under a tenth of its width.
NUM_RESAMPLES = 1000


def read_samples(path: Path) -> list[Sample]:
    """The samples of a benchmark file; raises ValueError that names the line that is none.

    Or that does not fit its group: samples with the same options, each right by another one.
    """
    samples = read_rows(path, Sample, key="evaluation.benchmark")
    first: dict[str, int] = {}
    for number, sample in enumerate(samples, 1):
        if (other := first.setdefault(sample.id, number)) != number:
            raise ValueError(f"{path} line {number}: {sample.id!r} is the id of line {other} too")
    _check_groups(path, samples)
    return samples


def check_benchmark(path: Path) -> None:
    """Raises ValueError as `read_samples`, and for a video that is not there."""
    for sample in read_samples(path):
        check_video(path.parent / sample.video)


def check_video(video: Path) -> None:
    """Raises ValueError that names a video of the benchmark which is not there."""
    # Not pathlib, which raises below a folder that may not be entered.
    if not os.path.exists(video):
        raise ValueError(f"evaluation.benchmark names {video}, which does not exist")


def _check_groups(path: Path, samples: Sequence[Sample]) -> None:
    """Raises ValueError that names the line of a sample that does not fit into its group."""
    numbered = sorted((s.group, number) for number, s in enumerate(samples, 1) if s.group)
    for name, rows in groupby(numbered, key=lambda row: row[0]):
        _check_group(f"group {name!r}", path, {number: samples[number - 1] for _, number in rows})


def _check_group(words: str, path: Path, by_line: Mapping[int, Sample]) -> None:
    first = min(by_line)
    if len(by_line) == 1:
        raise ValueError(f"{path} line {first}: {words} has one sample, it needs two at least")
    answered: dict[int, int] = {}
    for number, sample in by_line.items():
        if sample.options != by_line[first].options:
            raise ValueError(f"{path} line {number}: {words} has other options in line {first}")
        if (other := answered.setdefault(sample.answer, number)) != number:
            raise ValueError(
                f"{path} line {number}: answer {sample.answer} of {words} is that of line {other}"
            )


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy, number of samples and 95 % interval: temporal overall, static, by aspect and by format.

    Conflicting groups are scored as Vinoground does (arXiv 2410.02763). `text_score` is the share of groups
    in which every video finds its caption likeliest, `video_score` of those in which every caption is
    likeliest with its video, `group_score` of those in which both hold.
    """
    groups = group_outcomes(outcomes)
    temporal = [o for o in outcomes if o.aspect not in STATIC_ASPECTS]
    return {
        **score(temporal),
        "static": score([o for o in outcomes if o.aspect in STATIC_ASPECTS]),
        "text_score": score_groups(groups, is_text_right),
        "video_score": score_groups(groups, is_video_right),
        "group_score": score_groups(groups, lambda rows: is_text_right(rows) and is_video_right(rows)),
        "by_aspect": _scores_by(outcomes, lambda outcome: outcome.aspect),
        "by_format": _scores_by(temporal, lambda outcome: outcome.format),
    }


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy of some outcomes with its number of samples and 95 % interval."""
    return _share(sum(outcome.is_right for outcome in outcomes), len(outcomes))


def group_outcomes(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """The outcomes of each group; those of no group are left out."""
    ordered = sorted((o for o in outcomes if o.group), key=lambda outcome: outcome.group)
    return [list(rows) for _, rows in groupby(ordered, key=lambda outcome: outcome.group)]


def score_groups(
    groups: Sequence[Sequence[Outcome]], is_right: Callable[[Sequence[Outcome]], bool]
) -> dict[str, Any]:
    """Share of groups that are right, with their number and 95 % interval."""
    return _share(sum(map(is_right, groups)), len(groups))


def is_text_right(rows: Sequence[Outcome]) -> bool:
    """Whether every video of a group finds its own caption the likeliest."""
    return all(row.is_right for row in rows)


def is_video_right(rows: Sequence[Outcome]) -> bool:
    """Whether every caption of a group is likelier with its own video than with any other; a tie is wrong."""
    return all(
        row.log_likelihoods[row.answer] > other.log_likelihoods[row.answer]
        for row in rows
        for other in rows
        if other.answer != row.answer
    )


def wilson_interval(num_right: float, num_samples: int, *, z: float = 1.96) -> tuple[float, float]:
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
