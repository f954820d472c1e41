"""Results on public benchmarks: the figures that the authors define, and everything that they depend on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from statistics import fmean
from typing import Any

from tempo import __version__
from tempo.config import Config
from tempo.core.files import NUM_NAMED
from tempo.core.records import Frozen, Skipped
from tempo.evaluation.benchmark import link_clusters
from tempo.evaluation.figures import Figure, Item, make_figures, percent
from tempo.evaluation.public.questions import Question
from tempo.evaluation.public.tasks import Task


class PublicResult(Frozen):
    """The figures of models on a public benchmark, and everything that they depend on.

    `chance` has each figure for random answers. `left_out` has the rows without a usable question, and the
    videos that are missing or cannot be read. `num_unclear` counts the answers of each model that name no
    option, or score two options equally; they count as wrong.
    """

    benchmark: str
    protocol: dict[str, Any]
    num_questions: int
    num_asked: int
    left_out: tuple[Skipped, ...]
    num_unclear: dict[str, dict[str, int]]
    chance: dict[str, float]
    figures: tuple[Figure, ...]


def figure_items(task: Task, values: Mapping[str, float]) -> dict[str, list[Item]]:
    """The items of each figure; `values` maps asked questions to 1 or 0 (right or wrong), or to their chance.

    First the mean, then the figures of the authors, then those of each table and aspect.
    """
    units: dict[tuple[int, str], dict[str, list[Question]]] = {}
    for question in task.questions:
        labels = {"accuracy": 0, **dict.fromkeys(question.units, 1), question.format: 2, question.aspect: 2}
        for figure, rank in labels.items():
            unit = question.units.get(figure, question.id)
            units.setdefault((rank, figure), {}).setdefault(unit, []).append(question)
    items, is_asked = dict[str, list[Item]](), any if task.benchmark.needs_whole_units else all
    for (rank, figure), groups in sorted(units.items()):
        kept = {unit: rows for unit, rows in groups.items() if is_asked(row.id in values for row in rows)}
        videos = link_clusters([{row.video for row in rows} for rows in kept.values()])
        rights = [math.prod(values.get(row.id, 0.0) for row in rows) for rows in kept.values()]
        if kept and figure and not (rank == 2 and len(kept) == len(values)):
            items[figure] = [Item(*item) for item in zip(kept, videos, rights, strict=True)]
    rows, mean = items.pop("accuracy"), task.benchmark.mean
    tasks = {question.id: question.aspect for question in task.questions}
    counts = Counter(tasks[row.id] for row in rows)
    # Weights give every task the same sum, and all rows together the sum of their number.
    weights = {name: len(rows) / len(counts) / count for name, count in counts.items()}
    weighted = [row._replace(value=row.value * weights[tasks[row.id]]) for row in rows]
    means = {"questions": {"accuracy": rows}, "tasks": {"mean over tasks": weighted}, "none": {}}
    return means[mean] | items


def task_result(task: Task, config: Config) -> PublicResult:
    """The figures of all models in `task.replies`, on the questions about videos that can be read."""
    asked = {question.id: question for rows in task.asked() for question in rows}
    chance = figure_items(task, {name: 1 / len(question.options) for name, question in asked.items()})
    figures, num_unclear = list[Figure](), dict[str, dict[str, int]]()
    for source, replies in task.replies.items():
        kept = {model: [row for row in rows if row.id in asked] for model, rows in replies.items()}
        num_unclear[source] = {m: sum(row.choice is None for row in rows) for m, rows in kept.items()}
        items = {
            model: figure_items(task, {row.id: float(row.is_right) for row in rows})
            for model, rows in kept.items()
        }
        figures += make_figures(source, items, seed=config.run.seed)
    return PublicResult(
        benchmark=task.settings.name,
        protocol=_protocol(task, config),
        num_questions=len(task.questions) + len(task.bad_rows),
        num_asked=len(asked),
        left_out=(*task.bad_rows, *task.unreadable.values()),
        num_unclear=num_unclear,
        chance={key: round(fmean(row.value for row in rows), 4) for key, rows in chance.items()},
        figures=tuple(figures),
    )


def _protocol(task: Task, config: Config) -> dict[str, Any]:
    frames = config.frames
    rate = f"{frames.fps:g} per second, at most {frames.max_frames}"
    return {
        **task.settings.model_dump(mode="json", exclude={"name", "num_frames", "blind"}),
        "revision": task.data.revision,
        "files": task.data.hashes,
        "frames": f"{task.num_frames} evenly spaced" if task.num_frames else rate,
        **frames.model_dump(include={"max_pixels", "max_total_pixels", "jpeg_quality"}),
        "prompts": task.prompts_hash,
        "tempo": __version__,
        **{name: version(name) for name in ("transformers", "torch")},
    }


def result_notes(result: PublicResult) -> list[str]:
    """The notes below the figures: how many questions were asked, chance, and what was left out."""
    counts = f"{result.num_asked} of {result.num_questions} questions were asked"
    chance = ", ".join(f"{name} {percent(share)}" for name, share in result.chance.items())
    left_out = [f"left out: {row.id}: {row.reason}, {row.detail}" for row in result.left_out[:NUM_NAMED]]
    if (num_others := len(result.left_out) - NUM_NAMED) > 0:
        left_out.append(f"left out: {num_others} more")
    return [f"{result.benchmark}: {note}" for note in (f"{counts}; chance: {chance}", *left_out)]
