"""The chart of a probe: win rate and margin by perturbation and level."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

FORMATS = (".png", ".svg")


def check_chart_path(path: Path) -> None:
    """Raises ValueError for a name that says no format, before any work."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--chart {path}: the name must end with {' or '.join(FORMATS)}")


def write_chart(summary: dict[str, Any], path: Path, *, title: str) -> None:
    """Draws what `summarize` returned; equal figures give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "tempo"}):
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        # A file name may hold dollar signs.
        figure.suptitle(title, parse_math=False)
        rate, margin = figure.subplots(1, 2)
        _draw(rate, summary, "win_rate", nothing_noticed=0.5)
        _draw(margin, summary, "margin_per_token", nothing_noticed=0.0)
        rate.set(ylabel="win rate", ylim=(-0.03, 1.03))
        margin.set(ylabel="margin, nats per token")
        figure.legend(*margin.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
        data = io.BytesIO()
        file_format = path.suffix.lower().removeprefix(".")
        # When and by which version it was drawn is left out.
        metadata = {"Date" if file_format == "svg" else "Software": None}
        figure.savefig(data, format=file_format, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def _draw(axes: Any, summary: dict[str, Any], key: str, *, nothing_noticed: float) -> None:
    """A line per kind over the levels, easy to hard, with intervals; what has no level stands beside them."""
    names = list(summary["by_level"])
    for number, (kind, cell) in enumerate(summary["by_kind"].items()):
        points = cell["by_level"] or {kind: cell}
        names += [name for name in points if name not in names]
        # Side by side, so that no interval hides another.
        places = [names.index(name) + 0.06 * (number - 1) for name in points]
        middles = [point[key] for point in points.values()]
        axes.plot(places, middles, marker="o", markersize=4, label=kind, color=f"C{number}")
        for place, point in zip(places, points.values(), strict=True):
            if interval := point[f"{key}_interval"]:
                axes.vlines(place, *interval, color=f"C{number}", linewidth=1.5)
    axes.axhline(nothing_noticed, color="grey", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(names)), [f"r = {name}" if name.isdigit() else name for name in names])
    axes.grid(alpha=0.3)
