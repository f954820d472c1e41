"""Benchmarks: reading samples, scoring outcomes, and the table of accuracies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Outcome, Sample
from tempo.core.row_files import read_rows
from tempo.core.statistics import share_interval

#: Aspects that a single frame answers; all others need time.
STATIC_ASPECTS = ("static",)

#: Aspects with a label of their own in the table.
LABELS = {"conflicting": "conflicting, one by one"}


class Score(Frozen):
    """A share of right answers (None without samples), its number of samples, and its 95 % interval."""

    accuracy: float | None
    num_samples: int
    interval: tuple[float, float]


class EvaluationReport(Score):
    """Accuracies of one model on a benchmark; its own three fields are those of all temporal aspects.

    Groups of conflicting videos are scored as in Vinoground (arXiv 2410.02763). `text_score` is the share of
    groups in which every video gives its own caption the highest likelihood, `video_score` the share in which
    every caption has the highest likelihood with its own video, `group_score` the share in which both hold.
    """

    static: Score
    text_score: Score
    video_score: Score
    group_score: Score
    by_aspect: dict[str, Score]
    by_format: dict[str, Score]


def read_samples(path: Path) -> list[Sample]:
    """The samples of a benchmark file, in order.

    Raises ValueError that names file and line for a row that is not a valid sample, an id that occurs twice,
    and a sample that does not fit its group.
    """
    samples = read_rows(path, Sample, key="evaluation.benchmark")
    lines: dict[str, int] = {}
    for line, sample in enumerate(samples, 1):
        if (first := lines.setdefault(sample.id, line)) != line:
            raise ValueError(f"{path} line {line}: line {first} already has the id {sample.id!r}")
    for name, rows in _by_group(enumerate(samples, 1), lambda row: row[1].group).items():
        _check_group(path, name, dict(rows))
    return samples


def check_benchmark(path: Path) -> None:
    """Raises ValueError like `read_samples`, and for a video that does not exist."""
    for sample in read_samples(path):
        check_video(path.parent / sample.video)


def check_video(video: Path) -> None:
    """Raises ValueError that names a benchmark video which does not exist."""
    # Path.exists raises an error for a file in a folder without permission.
    if not os.path.exists(video):
        raise ValueError(f"evaluation.benchmark names {video}, which does not exist")


def score_outcomes(
    outcomes: Sequence[Outcome], samples: Iterable[Sample], *, seed: int = 0
) -> EvaluationReport:
    """The accuracies of a model, from its outcomes and the samples (which name the videos).

    The order of the outcomes does not change the result. Intervals come from resampling videos, since the
    questions about one video are not independent; `seed` is that of the resampling.
    """
    videos = {sample.id: sample.video for sample in samples}
    draws = derive_seed(seed, "evaluation", "bootstrap")

    def score(rows: Iterable[Outcome]) -> Score:
        ordered = sorted(rows, key=lambda row: row.id)
        return _score([row.is_right for row in ordered], [videos[row.id] for row in ordered], seed=draws)

    def score_groups(is_right: Callable[[Sequence[Outcome]], bool]) -> Score:
        return _score([is_right(rows) for rows in groups.values()], list(groups), seed=draws)

    def score_by(rows: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, Score]:
        return {name: score(r for r in rows if key(r) == name) for name in sorted({key(r) for r in rows})}

    groups = _by_group(outcomes, lambda outcome: outcome.group)
    temporal = [outcome for outcome in outcomes if outcome.aspect not in STATIC_ASPECTS]
    return EvaluationReport(
        **dict(score(temporal)),
        static=score(outcome for outcome in outcomes if outcome.aspect in STATIC_ASPECTS),
        text_score=score_groups(is_text_right),
        video_score=score_groups(is_video_right),
        group_score=score_groups(lambda rows: is_text_right(rows) and is_video_right(rows)),
        by_aspect=score_by(outcomes, lambda outcome: outcome.aspect),
        by_format=score_by(temporal, lambda outcome: outcome.format),
    )


def is_text_right(rows: Sequence[Outcome]) -> bool:
    """Whether every video of a group gives its own caption the highest likelihood; a tie is wrong."""
    return all(row.is_right for row in rows)


def is_video_right(rows: Sequence[Outcome]) -> bool:
    """Whether every caption of a group has the highest likelihood with its own video; a tie is wrong."""
    return all(
        row.log_likelihoods[row.answer] > other.log_likelihoods[row.answer]
        for row in rows
        for other in rows
        if other.answer != row.answer
    )


def accuracy_table(evaluation: Mapping[str, Any]) -> Table | str:
    """The content of `evaluation.json` as a table: a column per model, a row per score.

    A sentence instead where no model was evaluated.
    """
    models = evaluation["models"]
    if not models:
        return f"evaluation: {evaluation.get('note', 'nothing was evaluated')}"
    table = Table(title="accuracy in percent")
    for heading in ("", *models):
        table.add_column(heading, justify="right" if heading else "left")
    for row in accuracy_rows(models):
        table.add_row(*row)
    return table


def accuracy_rows(models: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The models of `evaluation.json` as rows of text: a label, then one cell per model."""
    scores = list(models.values())
    aspects = {aspect for score in scores for aspect in score["by_aspect"]} - {"static"}
    rows = [
        ["temporal", *(percent(score["accuracy"]) for score in scores)],
        ["95 % interval", *(" - ".join(map(percent, score["interval"])) for score in scores)],
        ["samples", *(str(score["num_samples"]) for score in scores)],
    ]
    # Conflicting videos last, next to the scores of their groups.
    for aspect in sorted(aspects, key=lambda aspect: (aspect in LABELS, aspect)):
        cells = (percent(score["by_aspect"].get(aspect, {}).get("accuracy")) for score in scores)
        rows.append([LABELS.get(aspect, aspect.replace("_", " ")), *cells])
    for name in ("text", "video", "group"):
        cells = (percent(score[f"{name}_score"]["accuracy"]) for score in scores)
        rows.append([f"conflicting, {name} score", *cells])
    return [*rows, ["static", *(percent(score["static"]["accuracy"]) for score in scores)]]


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _score(rights: Sequence[bool], clusters: Sequence[str], *, seed: int) -> Score:
    low, high = share_interval(rights, clusters, seed=seed)
    return Score(
        accuracy=round(sum(rights) / len(rights), 4) if rights else None,
        num_samples=len(rights),
        interval=(round(low, 4), round(high, 4)),
    )


def _by_group(rows: Iterable[Any], group_of: Callable[[Any], str]) -> dict[str, list[Any]]:
    """The rows of each group, sorted by name; rows without a group are left out."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    return {name: groups[name] for name in sorted(groups) if name}


def _check_group(path: Path, name: str, by_line: Mapping[int, Sample]) -> None:
    """Raises ValueError unless the samples share their options and each has another answer."""
    first = min(by_line)
    if len(by_line) == 1:
        raise ValueError(f"{path} line {first}: group {name!r} has one sample, it needs two or more")
    answers: dict[int, int] = {}
    for line, sample in by_line.items():
        place = f"{path} line {line}: group {name!r}"
        if sample.options != by_line[first].options:
            raise ValueError(f"{place} has other options in line {first}; they must be the same")
        if (other := answers.setdefault(sample.answer, line)) != line:
            raise ValueError(f"{place} already has answer {sample.answer} in line {other}")
