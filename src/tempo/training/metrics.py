"""Metrics of training steps: sums over pairs, `metrics.jsonl`, and a warning about falling rewards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tempo.config import DpoPhase, PhaseConfig
from tempo.core.files import append_jsonl, read_jsonl, write_lines
from tempo.engine.ranks import process_rank, wait_for_all

ACCURACIES = "rewards/accuracies"

#: The file of a DPO phase with a row for each step: the margin of each of its pairs, before the update.
MARGINS = "margins.jsonl"

#: Number of steps that a warning is based on; fewer are too noisy.
WINDOW = 5
#: The fall of the chosen answers' reward, in units of beta times nats, that triggers a warning.
FALL = 0.5


@dataclass
class Metrics:
    """Maps a metric to the sum and the number of its values. Sums of groups and processes can be added.

    `margins` has the margin of each pair, by its id.
    """

    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, total: float, number: int = 1) -> None:
        """Adds `number` values of one metric, given their sum."""
        known, before = self.sums.get(name, (0.0, 0))
        self.sums[name] = (known + total, before + number)

    def add(self, other: Self) -> None:
        """Adds the sums of `other`, which may have different metrics."""
        for name, (total, number) in other.sums.items():
            self.count(name, total, number)
        self.margins |= other.margins

    def means(self) -> dict[str, float]:
        """Maps a metric to the mean of its values."""
        return {name: total / number for name, (total, number) in self.sums.items()}


class MetricsLog:
    """The rows of a phase, one per step, in a file. Only process 0 writes it.

    Starts with the first `num_steps` rows of the file; raises ValueError if it has fewer.
    """

    def __init__(self, path: Path, *, num_steps: int = 0) -> None:
        self.rows: list[dict[str, float]] = read_jsonl(path)[:num_steps]
        if len(self.rows) < num_steps:
            raise ValueError(
                f"{path} has {len(self.rows)} rows for {num_steps} steps. "
                "Remove its directory to train the phase again"
            )
        self._path = path
        # Process 0 must not rewrite the file while another process reads it.
        wait_for_all()
        if process_rank() == 0:
            write_lines(path, (json.dumps(row) for row in self.rows))

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row, rounded to six digits."""
        self.rows.append({name: float(f"{value:.6g}") for name, value in row.items()})
        if process_rank() == 0:
            append_jsonl(self._path, [json.dumps(self.rows[-1])])


def find_warning(rows: Sequence[Mapping[str, float]], phase: PhaseConfig) -> str:
    """A warning if the chosen answers of a finished DPO phase became much less likely; otherwise empty."""
    if not isinstance(phase, DpoPhase) or len(rows) < WINDOW:
        return ""
    names = ("rewards/chosen", "rewards/rejected")
    chosen, rejected = (sum(row[name] for row in rows[-WINDOW:]) / WINDOW for name in names)
    if chosen > -FALL:
        return ""
    is_common = rejected < chosen and not phase.nll_weight
    advice = "Set nll_weight = 1.0" if is_common else f"Lower its learning_rate, {phase.learning_rate:g}"
    rewards = f"{chosen:.2f} for chosen and {rejected:.2f} for rejected answers"
    return f"phase {phase.name!r}: rewards fell to {rewards}. {advice}"
