"""Win rates and margins of a probe with their intervals, as data and as a table for the terminal.

N comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from tempo.core.seeds import derive_seed
from tempo.core.statistics import cluster_interval, wilson_interval
from tempo.evaluation.probe import Comparison
from tempo.evaluation.table import percent

#: Of fewer videos the bootstrap says too little: they get no interval.
MIN_VIDEOS = 5

#: In the order in which tables and charts show them.
KINDS = ("reverse", "shuffle", "drop", "frozen")


def summarize(comparisons: Sequence[Comparison], *, seed: int) -> dict[str, Any]:
    """Win rate and margin with their 95 % intervals: overall, by kind and within it by level, by level alone.

    `win_rate` is the share of comparisons won, a tie being half a win: 0.5 means that nothing is noticed.
    `margin` is the mean in nats of the whole description, `margin_per_token` that of its tokens' mean.
    """
    return {
        **score(comparisons, seed=seed),
        "by_kind": {
            kind: {**score(rows, seed=seed), "by_level": _by_level(rows, seed)}
            for kind in KINDS
            if (rows := [row for row in comparisons if row.kind == kind])
        },
        "by_level": _by_level(comparisons, seed),
    }


def _by_level(comparisons: Sequence[Comparison], seed: int) -> dict[str, Any]:
    """Easiest first; what has no level is left out."""
    levels = sorted({row.level for row in comparisons} - {0}, reverse=True)
    return {
        str(level): score([row for row in comparisons if row.level == level], seed=seed) for level in levels
    }


def score(comparisons: Sequence[Comparison], *, seed: int) -> dict[str, Any]:
    """Win rate and margins of some comparisons; an interval is None for fewer than `MIN_VIDEOS` videos."""
    videos = [row.video for row in comparisons]
    figures = {
        "win_rate": [row.win for row in comparisons],
        "margin_per_token": [row.margin / row.num_tokens for row in comparisons],
        "margin": [row.margin for row in comparisons],
    }
    found: dict[str, Any] = {"num_videos": len(set(videos)), "num_comparisons": len(comparisons)}
    for name, values in figures.items():
        interval = None
        if found["num_videos"] >= MIN_VIDEOS:
            interval = cluster_interval(values, videos, seed=derive_seed(seed, "probe", "bootstrap"))
        if interval and name == "win_rate" and len({*values}) == 1 and values[0] in (0, 1):
            # All alike, so the bootstrap knows no spread: that of as many samples as videos stands in.
            interval = wilson_interval(int(values[0]) * found["num_videos"], found["num_videos"])
        found[name] = round(float(np.mean(values)), 5)
        found[f"{name}_interval"] = [round(bound, 5) for bound in interval] if interval else None
    return found


def probe_table(summary: dict[str, Any]) -> Table:
    """A row per kind and level, and one for all; a dash where there are too few videos for an interval."""
    table = Table(title="how often, and by how much, a description is likelier with the clean video")
    for heading in ("", "videos", "win %", "95 % interval", "nats/token", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, cell in summary["by_kind"].items():
        table.add_row(*_row(kind, cell))
        for level, inner in cell["by_level"].items():
            table.add_row(*_row(f"  r = {level}", inner))
    table.add_row(*_row("all", summary))
    return table


def _row(name: str, cell: dict[str, Any]) -> list[str]:
    rates, margins = cell["win_rate_interval"], cell["margin_per_token_interval"]
    return [
        name,
        str(cell["num_videos"]),
        percent(cell["win_rate"]),
        " - ".join(map(percent, rates)) if rates else "-",
        f"{cell['margin_per_token']:.3f}",
        " to ".join(f"{bound:.3f}" for bound in margins) if margins else "-",
    ]
