"""The audit as a table, for the page and for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from tempo.evaluation.benchmark import percent
from tempo.preference.verdict import JUDGES


def audit_cells(audit: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings (pairs and judges) and rows: all pairs, the 95 % interval, each kind, each level."""
    judges = audit["judges"]
    if not judges:
        return [], []
    summaries = list(judges.values())
    headings = ["", "pairs", *(JUDGES[name].name for name in judges)]
    intervals = [" - ".join(map(percent, summary["interval"])) for summary in summaries]
    rows = [_row("all pairs", summaries), ["95 % interval", "", *intervals]]
    rows += [_row(kind, [s["by_kind"].get(kind) for s in summaries]) for kind in summaries[0]["by_kind"]]
    rows += [
        _row(f"r = {level}", [s["by_level"].get(level) for s in summaries])
        for level in summaries[0]["by_level"]
    ]
    return headings, rows


def _row(name: str, cells: list[dict[str, Any] | None]) -> list[str]:
    """A name, the pairs in it, and each judge's accuracy; a dash where it saw none."""
    assert cells[0]
    return [name, str(cells[0]["num_pairs"]), *(percent((cell or {}).get("accuracy")) for cell in cells)]


def audit_table(audit: dict[str, Any]) -> Table | str:
    """The table for a terminal; a line where nothing could be judged."""
    headings, rows = audit_cells(audit)
    counts = f"{audit['num_audited']} of {audit['num_pairs']} pairs"
    if not rows:
        return f"audit: {counts}"
    table = Table(title=f"told apart without the video, in percent ({counts})")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*row)
    return table
