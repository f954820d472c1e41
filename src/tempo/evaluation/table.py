"""The table of accuracies, as the terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

#: Aspects whose rows are called otherwise.
NAMES = {"conflicting": "conflicting, one by one"}


def accuracy_table(evaluation: dict[str, Any]) -> Table | str:
    """A column per model; rows for temporal accuracy with its interval and samples, then its parts."""
    models = evaluation["models"]
    if not models:
        return f"evaluation: {evaluation.get('note', 'nothing was evaluated')}"
    table = Table(title="accuracy in percent")
    for heading in ("", *models):
        table.add_column(heading, justify="right" if heading else "left")
    for name, cells in _rows(list(models.values())):
        table.add_row(name, *cells)
    return table


def _rows(summaries: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Each row's name and one cell per model."""
    yield "temporal", [percent(summary["accuracy"]) for summary in summaries]
    yield "95 % interval", [" - ".join(map(percent, summary["interval"])) for summary in summaries]
    yield "samples", [str(summary["num_samples"]) for summary in summaries]
    aspects = {aspect for summary in summaries for aspect in summary["by_aspect"]} - {"static"}
    # Conflicting videos last, beside the scores of their groups.
    for aspect in sorted(aspects, key=lambda aspect: (aspect in NAMES, aspect)):
        scores = [summary["by_aspect"].get(aspect, {}) for summary in summaries]
        yield NAMES.get(aspect, aspect.replace("_", " ")), [percent(s.get("accuracy")) for s in scores]
    for name in ("text", "video", "group"):
        scores = [summary[f"{name}_score"] for summary in summaries]
        yield f"conflicting, {name} score", [percent(score["accuracy"]) for score in scores]
    yield "static", [percent(summary["static"]["accuracy"]) for summary in summaries]


def percent(share: float | None) -> str:
    """A share as a percentage with one digit, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"
