"""Benchmarks: reading samples and scoring outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, permutations
from operator import attrgetter
from pathlib import Path
from typing import Any

from tempo.core.files import MAX_BAD_SHARE, UserFile, read_user_file, validate_row
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Outcome, Sample
from tempo.core.statistics import share_interval
from tempo.evaluation.figures import Item
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
            raise ValueError(f"an earlier row has the id {sample.id!r}")
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

    def score(items: Sequence[Item]) -> Score:
        rights, clusters = [item.value for item in items], [item.video for item in items]
        low, high = share_interval(rights, clusters, seed=draws)
        accuracy = round(sum(rights) / len(rights), 4) if rights else None
        return Score(accuracy=accuracy, num_samples=len(rights), interval=(round(low, 4), round(high, 4)))

    def score_by(field: str, rows: Iterable[Outcome]) -> dict[str, Score]:
        ordered = sorted(rows, key=attrgetter(field))
        parts = groupby(ordered, key=attrgetter(field))
        return {name: score(right_items(part, videos)) for name, part in parts}

    temporal = [outcome for outcome in outcomes if outcome.aspect not in STATIC_ASPECTS]
    static = [outcome for outcome in outcomes if outcome.aspect in STATIC_ASPECTS]
    return EvaluationReport(
        **dict(score(right_items(temporal, videos))),
        **{f"{name}_score": score(items) for name, items in group_items(outcomes, videos).items()},
        static=score(right_items(static, videos)),
        by_aspect=score_by("aspect", outcomes),
        by_format=score_by("format", temporal),
    )


def benchmark_items(outcomes: Sequence[Outcome], samples: Iterable[Sample]) -> dict[str, list[Item]]:
    """What a model scores on each item of each figure of a benchmark, by the name of the figure."""
    videos = {sample.id: sample.video for sample in samples}
    temporal = [outcome for outcome in outcomes if outcome.aspect not in STATIC_ASPECTS]
    found = {"temporal questions": right_items(temporal, videos)}
    # Conflicting videos next to the scores of their groups, static questions last.
    scores = group_items(outcomes, videos)
    grouped = {f"conflicting, {name} score": items for name, items in scores.items()}
    aspects = sorted({outcome.aspect for outcome in outcomes} - {"conflicting", *STATIC_ASPECTS})
    for aspect in (*aspects, "conflicting", *STATIC_ASPECTS):
        found |= grouped if aspect in STATIC_ASPECTS else {}
        label = "conflicting, one by one" if aspect == "conflicting" else aspect.replace("_", " ")
        found[label] = right_items((row for row in outcomes if row.aspect == aspect), videos)
    return {name: items for name, items in found.items() if items}


def right_items(outcomes: Iterable[Outcome], videos: Mapping[str, str]) -> list[Item]:
    """Whether each answer is right, sorted by id; `videos` maps the ids of samples to videos."""
    rows = sorted(outcomes, key=attrgetter("id"))
    return [Item(row.id, videos[row.id], float(row.is_right)) for row in rows]


def group_items(outcomes: Sequence[Outcome], videos: Mapping[str, str]) -> dict[str, list[Item]]:
    """Whether each group of conflicting videos is right, by `text`, `video` and `group`.

    See EvaluationReport for their meaning. The `video` of an item is a cluster: see `link_clusters`.
    """
    names = sorted({outcome.group for outcome in outcomes} - {""})
    groups = [[outcome for outcome in outcomes if outcome.group == name] for name in names]
    clusters = link_clusters([{videos[row.id] for row in rows} for rows in groups])
    found: dict[str, list[Item]] = {"text": [], "video": [], "group": []}
    for name, video, rows in zip(names, clusters, groups, strict=True):
        is_text = all(row.is_right for row in rows)
        # Whether each caption is more likely with its own video than with any other video of the group.
        is_video = all(
            a.log_likelihoods[a.answer] > b.log_likelihoods[a.answer] for a, b in permutations(rows, 2)
        )
        for key, is_right in (("text", is_text), ("video", is_video), ("group", is_text and is_video)):
            found[key].append(Item(name, video, float(is_right)))
    return found


def link_clusters(groups: Sequence[set[str]]) -> list[str]:
    """A name for each group of videos; groups that are linked by common videos share a name."""
    from scipy.cluster.hierarchy import DisjointSet

    linked = DisjointSet(set().union(*groups))
    for first, *others in groups:
        for other in others:
            linked.merge(first, other)
    return [str(linked[min(group)]) for group in groups]
