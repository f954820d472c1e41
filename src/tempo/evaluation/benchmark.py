"""Benchmarks: reading samples and scoring outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from tempo.core.files import MAX_BAD_SHARE, UserFile, read_user_file, validate_row
from tempo.core.records import Outcome, Sample
from tempo.evaluation.figures import Item
from tempo.video.find import find_on_disk

#: Aspects that can be answered from a single frame.
STATIC_ASPECTS = ("static",)
#: Aspects that are no part of temporal accuracy: static ones, and two kinds of questions about order in the
#: embedded world that its small models have not learned (docs/log.md).
SEPARATE_ASPECTS = (*STATIC_ASPECTS, "first_of_two", "before_after")


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
        # Path.is_file raises an error for a file in a folder without permission.
        if not os.path.isfile(video):
            raise ValueError(f"{video} is not a file")
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


def benchmark_items(outcomes: Sequence[Outcome]) -> dict[str, list[Item]]:
    """What a model scores on each item of each figure of a benchmark, by the name of the figure.

    Groups of conflicting videos have three figures: see `group_items`.
    """
    found = {"temporal questions": right_items(row for row in outcomes if row.aspect not in SEPARATE_ASPECTS)}
    # Conflicting videos next to the scores of their groups, static questions last.
    aspects = sorted({row.aspect for row in outcomes} - {"conflicting", *STATIC_ASPECTS})
    for aspect in (*aspects, "conflicting"):
        label = "conflicting, one by one" if aspect == "conflicting" else aspect.replace("_", " ")
        found[label] = right_items(row for row in outcomes if row.aspect == aspect)
    found |= {f"conflicting, {name} score": items for name, items in group_items(outcomes).items()}
    found["static"] = right_items(row for row in outcomes if row.aspect in STATIC_ASPECTS)
    return found


def right_items(outcomes: Iterable[Outcome]) -> list[Item]:
    """Whether each answer is right."""
    return [Item(row.id, row.video, float(row.is_right)) for row in outcomes]


def group_items(outcomes: Sequence[Outcome]) -> dict[str, list[Item]]:
    """Whether each group of conflicting videos is right, as in Vinoground (arXiv 2410.02763).

    `text`: every video gives its own caption the highest likelihood. `video`: every caption has the highest
    likelihood with its own video. `group`: both. The `video` of an item is a cluster: see `link_clusters`.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group, []).append(outcome)
    groups.pop("", None)
    clusters = link_clusters([{row.video for row in rows} for rows in groups.values()])
    found: dict[str, list[Item]] = {"text": [], "video": [], "group": []}
    for (name, rows), video in zip(groups.items(), clusters, strict=True):
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
    names = {video: min(subset) for subset in linked.subsets() for video in subset}
    return [names[min(group)] for group in groups]
