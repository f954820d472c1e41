"""The benchmark: reading samples, and accuracies with their intervals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tempo.core.records import Outcome, Sample
from tempo.core.statistics import wilson_interval
from tempo.core.store import read_rows

#: Aspects that one frame answers; the rest need time.
STATIC_ASPECTS = ("static",)


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


def _share(num_right: int, num_samples: int) -> dict[str, Any]:
    accuracy = round(num_right / num_samples, 4) if num_samples else None
    interval = [round(bound, 4) for bound in wilson_interval(num_right, num_samples)]
    return {"accuracy": accuracy, "num_samples": num_samples, "interval": interval}


def _scores_by(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, Any]:
    names = sorted({key(outcome) for outcome in outcomes})
    return {name: score([o for o in outcomes if key(o) == name]) for name in names}
