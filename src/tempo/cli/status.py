"""What a run directory holds: counts, drops with their reasons, figures so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tempo.core.records import Skipped
from tempo.core.store import SKIPPED, RunStore, count_skipped, run_directory_error
from tempo.evaluation.benchmark import accuracy_table
from tempo.pipeline.stages import NAMES


def print_status(directory: Path, console: Console) -> None:
    """Prints the state of a run; raises ValueError if there is none."""
    if error := run_directory_error(directory):
        raise ValueError(error)
    _print_rows(directory, NAMES, str(directory), console)
    for line in training_lines(directory):
        console.print(line)
    evaluation = directory / "evaluation.json"
    if evaluation.exists():
        console.print(accuracy_table(json.loads(evaluation.read_text())))


def _print_rows(directory: Path, names: Sequence[str], title: str, console: Console) -> None:
    """Prints what came of these stages, and what was dropped on the way."""
    store = RunStore(directory)
    console.print(_stages(store, names, title))
    if drops := count_skipped(store):
        console.print(_reasons(drops))


def training_lines(directory: Path) -> list[str]:
    """One line per phase with its last figures."""
    lines = []
    for path in sorted(directory.glob("*/**/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if rows:
            names = ("loss", "rewards/accuracies", "rewards/margins")
            figures = " ".join(f"{name} {rows[-1][name]:.3f}" for name in names if name in rows[-1])
            lines.append(f"{path.parent.relative_to(directory)}: step {rows[-1]['step']} {figures}")
    return lines


def _stages(store: RunStore, names: Sequence[str], title: str) -> Table:
    drops = Counter(drop.stage for drop in store.read(SKIPPED, Skipped))
    table = Table(title=title)
    for heading in ("stage", "state", "rows", "dropped"):
        table.add_column(heading, justify="right" if heading in ("rows", "dropped") else "left")
    for name in names:
        begun = store.fingerprint(name) is not None
        state = "done" if store.is_done(name) else "begun" if begun else "-"
        path = store.path(name)
        rows = str(path.read_bytes().count(b"\n")) if path.exists() else ""
        table.add_row(name, state, rows, str(drops[name]) if drops[name] else "")
    return table


def _reasons(drops: Mapping[tuple[str, str], tuple[int, str]]) -> Table:
    table = Table(title="dropped, by reason")
    for heading in ("stage", "reason", "count", "for example"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    for stage, reason in sorted(drops, key=lambda key: (NAMES.index(key[0]), key[1])):
        count, example = drops[stage, reason]
        table.add_row(stage, reason, str(count), example[:100])
    return table
