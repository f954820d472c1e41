"""Benchmarks: reading samples, scoring outcomes, and the table of accuracies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, permutations
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.table import Table

from tempo.core.files import MAX_BAD_SHARE, UserFile, read_user_file, validate_row
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Outcome, Sample
from tempo.core.statistics import share_interval
from tempo.video.find import find_on_disk

#: Aspects that can be answered from a single frame; all others are temporal.
STATIC_ASPECTS = ("static",)


class Score(Frozen):
    """A share of correct answers (None without samples), its number of samples, and its 95 % interval."""

    accuracy: float | None
    num_samples: int
    interval: tuple[float, float]


class EvaluationReport(Score):
    """Accuracies of one model on a benchmark; the inherited fields are for all temporal aspects.

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


def read_samples(path: Path, *, max_bad_share: float = MAX_BAD_SHARE) -> UserFile[Sample]:
    """The samples of a benchmark file, in order.

    A row is bad if it is not a valid sample, its id occurred before, its video does not exist, or the samples
    of its group are inconsistent. A warning names the bad rows; raises ValueError if they are more than
    `max_bad_share`.
    """
    ids = set[str]()

    def parse(row: dict[str, Any]) -> Sample:
        sample = validate_row(Sample, row)
        video = find_on_disk(path.parent, sample.video)
        if sample.id in ids:
            raise ValueError(f"a row before already has the id {sample.id!r}")
        # Path.exists raises an error for a file in a folder without permission.
        if not os.path.exists(video):
            raise ValueError(f"{video} does not exist")
        ids.add(sample.id)
        return sample.model_copy(update={"video": video.removeprefix(f"{path.parent}/")})

    file = read_user_file(path, "evaluation.benchmark", parse)
    for name in {sample.group for sample in file.rows.values()} - {""}:
        rows = {place: sample for place, sample in file.rows.items() if sample.group == name}
        answers = {sample.answer for sample in rows.values()}
        if len(answers) < max(2, len(rows)) or len({sample.options for sample in rows.values()}) > 1:
            needs = "needs two samples or more, with the same options and different answers"
            for place in rows:
                file.faults[place] = f"group {name!r} ({', '.join(rows)}) {needs}"
                del file.rows[place]
    return file.check(max_bad_share)


def score_outcomes(
    outcomes: Sequence[Outcome], samples: Iterable[Sample], *, seed: int = 0
) -> EvaluationReport:
    """The accuracies of a model, from its outcomes in any order and the samples, which name the videos.

    Intervals come from resampling videos with `seed`, since questions about one video are not independent.
    """
    videos = {sample.id: sample.video for sample in samples}
    draws = derive_seed(seed, "evaluation", "bootstrap")

    def score(rights: Sequence[bool], clusters: Sequence[str]) -> Score:
        low, high = share_interval(rights, clusters, seed=draws)
        accuracy = round(sum(rights) / len(rights), 4) if rights else None
        return Score(accuracy=accuracy, num_samples=len(rights), interval=(round(low, 4), round(high, 4)))

    def score_rows(rows: Iterable[Outcome]) -> Score:
        ordered = sorted(rows, key=lambda row: row.id)
        return score([row.is_right for row in ordered], [videos[row.id] for row in ordered])

    def score_by(field: str, rows: Sequence[Outcome]) -> dict[str, Score]:
        ordered = sorted(rows, key=attrgetter(field))
        return {name: score_rows(group) for name, group in groupby(ordered, key=attrgetter(field))}

    names = sorted({outcome.group for outcome in outcomes} - {""})
    groups = [[outcome for outcome in outcomes if outcome.group == name] for name in names]
    is_text_right = [all(row.is_right for row in rows) for rows in groups]
    # Whether each caption is more likely with its own video than with any other video of the group.
    is_video_right = [
        all(a.log_likelihoods[a.answer] > b.log_likelihoods[a.answer] for a, b in permutations(rows, 2))
        for rows in groups
    ]
    is_right = [text and video for text, video in zip(is_text_right, is_video_right, strict=True)]
    clusters = link_clusters([{videos[row.id] for row in rows} for rows in groups])
    temporal = [outcome for outcome in outcomes if outcome.aspect not in STATIC_ASPECTS]
    return EvaluationReport(
        **dict(score_rows(temporal)),
        static=score_rows(outcome for outcome in outcomes if outcome.aspect in STATIC_ASPECTS),
        text_score=score(is_text_right, clusters),
        video_score=score(is_video_right, clusters),
        group_score=score(is_right, clusters),
        by_aspect=score_by("aspect", outcomes),
        by_format=score_by("format", temporal),
    )


def link_clusters(groups: Sequence[set[str]]) -> list[str]:
    """A name for each group of videos; groups that are linked by common videos share a name."""
    from scipy.cluster.hierarchy import DisjointSet

    linked = DisjointSet(set().union(*groups))
    for first, *others in groups:
        for other in others:
            linked.merge(first, other)
    return [str(linked[min(group)]) for group in groups]


def accuracy_table(evaluation: Mapping[str, Any]) -> Table | str:
    """The content of `evaluation.json` as a table of models and scores, or its note if it has no model."""
    models = evaluation["models"]
    if not models:
        return f"evaluation: {evaluation['note']}"
    return figure_table("accuracy in percent", ("", *models), accuracy_rows(models))


def figure_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for a terminal, with names on the left and figures on the right."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*row)
    return table


def accuracy_rows(models: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The models of `evaluation.json` as rows of text: a label, then one cell per model."""
    scores = list(models.values())
    aspects = {aspect for score in scores for aspect in score["by_aspect"]} - set(STATIC_ASPECTS)
    rows = [
        ["temporal", *(percent(score["accuracy"]) for score in scores)],
        ["95 % interval", *(" - ".join(map(percent, score["interval"])) for score in scores)],
        ["samples", *(str(score["num_samples"]) for score in scores)],
    ]
    # Conflicting videos last, next to the scores of their groups.
    for aspect in sorted(aspects, key=lambda aspect: (aspect == "conflicting", aspect)):
        cells = (percent(score["by_aspect"].get(aspect, {}).get("accuracy")) for score in scores)
        label = "conflicting, one by one" if aspect == "conflicting" else aspect.replace("_", " ")
        rows.append([label, *cells])
    for name in ("text", "video", "group"):
        cells = (percent(score[f"{name}_score"]["accuracy"]) for score in scores)
        rows.append([f"conflicting, {name} score", *cells])
    return [*rows, ["static", *(percent(score["static"]["accuracy"]) for score in scores)]]


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"
