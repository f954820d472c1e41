"""The table of accuracies, as the terminal shows it."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def accuracy_table(evaluation: dict[str, Any]) -> Table | str:
    """One row per model: temporal accuracy with samples and 95 % interval, static, groups, aspects."""
    models = evaluation["models"]
    if not models:
        return f"evaluation: {evaluation.get('note', 'nothing was evaluated')}"
    aspects = sorted({aspect for summary in models.values() for aspect in summary["by_aspect"]} - {"static"})
    table = Table(title="accuracy in percent")
    for heading in ("model", "temporal", "95 % interval", "samples", "static", "groups", *aspects):
        table.add_column(heading.replace("_", " "), justify="left" if heading == "model" else "right")
    for name, summary in models.items():
        low, high = summary["interval"]
        table.add_row(
            name,
            percent(summary["accuracy"]),
            f"{percent(low)} - {percent(high)}",
            str(summary["num_samples"]),
            percent(summary["static"]["accuracy"]),
            percent(summary["group_score"]["accuracy"]),
            *(percent(summary["by_aspect"].get(aspect, {}).get("accuracy")) for aspect in aspects),
        )
    return table


def percent(share: float | None) -> str:
    """A share as a percentage with one digit, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"
