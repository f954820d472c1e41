"""What `tempo status` prints: the state of each stage, skipped records by reason, the last metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tempo.core.files import read_jsonl, whole_lines
from tempo.core.records import Skipped
from tempo.core.store import SKIPPED, RunStore, count_skipped, run_directory_error
from tempo.evaluation.benchmark import accuracy_table
from tempo.pipeline.stages import NAMES

METRICS = ("loss", "rewards/accuracies", "rewards/margins")


def print_status(directory: Path, console: Console) -> None:
    """Prints the state of a run; raises ValueError if the directory is not one."""
    if error := run_directory_error(directory):
        raise ValueError(error)
    store = RunStore(directory)
    skipped = Counter(row.stage for row in store.read(SKIPPED, Skipped))
    rows = [(name, *_state(store, name), str(skipped[name] or "")) for name in NAMES]
    console.print(_table(str(directory), ("stage", "state", "rows", "skipped"), rows))
    if reasons := count_skipped(store):
        in_order = sorted(reasons, key=lambda key: (NAMES.index(key[0]), key[1]))
        cells = [(*key, str(reasons[key][0]), reasons[key][1][:100]) for key in in_order]
        console.print(_table("skipped, by reason", ("stage", "reason", "count", "for example"), cells))
    for line in training_lines(directory):
        console.print(line)
    print_evaluation(directory, console)


def print_evaluation(directory: Path, console: Console) -> None:
    """Prints the accuracies of a run that has an evaluation."""
    path = directory / "evaluation.json"
    if path.exists():
        console.print(accuracy_table(json.loads(path.read_text(encoding="utf-8"))))


def training_lines(directory: Path) -> list[str]:
    """One line per phase with its last metrics."""
    lines = []
    for path in sorted(directory.glob("*/**/metrics.jsonl")):
        if rows := read_jsonl(path):
            figures = " ".join(f"{name} {rows[-1][name]:.3f}" for name in METRICS if name in rows[-1])
            lines.append(f"{path.parent.relative_to(directory)}: step {rows[-1]['step']} {figures}")
    return lines


def _state(store: RunStore, name: str) -> tuple[str, str]:
    """Whether a stage is done, begun or neither, and its number of rows."""
    begun = store.fingerprint(name) is not None
    state = "done" if store.is_done(name) else "begun" if begun else "-"
    path = store.path(name)
    return state, str(len(whole_lines(path))) if path.exists() else ""


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("rows", "skipped", "count") else "left")
    for row in rows:
        table.add_row(*row)
    return table
