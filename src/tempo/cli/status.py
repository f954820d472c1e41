"""What a run directory holds: counts, drops with their reasons, figures so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tempo.core.records import Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.evaluation.benchmark import accuracy_table
from tempo.pipeline.rounds import ROUND_STAGES, round_directories
from tempo.pipeline.run_files import read_config
from tempo.pipeline.stages import NAMES, run_directory_error


def print_status(directory: Path, console: Console) -> None:
    """Prints the state of a run; raises ValueError if there is none."""
    if error := run_directory_error(directory):
        raise ValueError(error)
    num_rounds = read_config(directory).get("run", {}).get("rounds", 1)
    for place in round_directories(directory):
        _print_rows(place, ROUND_STAGES, f"round {place.name} of {num_rounds}: {place}", console)
    title = f"round {num_rounds} of {num_rounds}: {directory}" if num_rounds > 1 else str(directory)
    _print_rows(directory, NAMES, title, console)
    for line in training_lines(directory):
        console.print(line)
    evaluation = directory / "evaluation.json"
    if evaluation.exists():
        console.print(accuracy_table(json.loads(evaluation.read_text())))


def _print_rows(directory: Path, names: Sequence[str], title: str, console: Console) -> None:
    """Prints what came of these stages, and what was dropped on the way."""
    store = RunStore(directory)
    console.print(_stages(store, names, title))
    if drops := count_drops(store):
        console.print(_reasons(drops))


def count_drops(store: RunStore) -> dict[tuple[str, str], tuple[int, str]]:
    """For each stage and reason how many, and one of them by the name of its file, not by its content."""
    paths = {video.id: video.path for video in store.read("videos", Video)}
    drops = store.read(SKIPPED, Skipped)
    counts = Counter((drop.stage, drop.reason) for drop in drops)
    examples = {(drop.stage, drop.reason): f"{_file_name(drop, paths)}: {drop.detail}" for drop in drops}
    return {key: (counts[key], example) for key, example in examples.items()}


def _file_name(drop: Skipped, paths: Mapping[str, str]) -> str:
    """The file's name in place of its path or id; the id of a pair begins with that of its video."""
    if drop.stage == "videos":
        return Path(drop.id).name
    name, slash, rest = drop.id.partition("/")
    return f"{Path(paths[name]).name}{slash}{rest}" if name in paths else drop.id


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
