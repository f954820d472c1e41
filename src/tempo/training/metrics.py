"""Metrics of training steps: sums over pairs, the file `metrics.jsonl`, and warnings drawn from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tempo.config import DpoPhase, PhaseConfig
from tempo.core.files import read_jsonl, write_lines
from tempo.engine.ranks import wait_for_all

ACCURACIES = "rewards/accuracies"

#: Number of steps that a warning is based on. Fewer are noise; with more it would come too late.
WINDOW = 5
#: A fall of the chosen answers' reward, in units of beta times nats, that is worth a warning.
FALL = 0.5


@dataclass
class Metrics:
    """Metric name to its sum and the number of values in it. Sums of groups and processes can be added."""

    sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def count(self, name: str, total: float, number: int = 1) -> None:
        """Adds `number` values of one metric, given their sum."""
        known, before = self.sums.get(name, (0.0, 0))
        self.sums[name] = (known + total, before + number)

    def add(self, other: Metrics) -> None:
        """Adds the sums of `other`, which may have other names."""
        for name, (total, number) in other.sums.items():
            self.count(name, total, number)

    def means(self) -> dict[str, float]:
        """Metric name to the mean over its values."""
        return {name: total / number for name, (total, number) in self.sums.items()}


class MetricsLog:
    """The rows of a phase, one per step, in `metrics.jsonl`. One process of several writes the file.

    Starts with the first `num_steps` rows of the file; raises ValueError if it has fewer.
    """

    def __init__(self, path: Path, phase: PhaseConfig, *, num_steps: int = 0, is_writer: bool = True) -> None:
        self.rows: list[dict[str, float]] = read_jsonl(path)[:num_steps]
        if len(self.rows) < num_steps:
            raise ValueError(
                f"{path} has {len(self.rows)} rows, but the phase was stopped after step {num_steps}. "
                "Remove the directory of the phase to train it from its start"
            )
        self._path = path
        self._phase = phase
        self._is_writer = is_writer
        self._warned = set(find_warnings(self.rows, phase))
        # No process may rewrite the file while another one reads it.
        wait_for_all()
        if is_writer:
            write_lines(path, (json.dumps(row) for row in self.rows))

    def append(self, row: Mapping[str, float]) -> list[str]:
        """Adds a row, rounded to six digits; returns the warnings that were not given before."""
        self.rows.append({name: float(f"{value:.6g}") for name, value in row.items()})
        if self._is_writer:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
        found = find_warnings(self.rows, self._phase)
        new = [text for name, text in found.items() if name not in self._warned]
        self._warned |= set(found)
        return new


def find_warnings(rows: Sequence[Mapping[str, float]], phase: PhaseConfig) -> dict[str, str]:
    """Name to text of every warning that the steps so far call for; empty for an SFT phase."""
    if not isinstance(phase, DpoPhase) or len(rows) < WINDOW:
        return {}
    found = {}
    # Until the first step with a rate above 0, policy and reference are equal and every accuracy is 0.
    first = next((i for i, row in enumerate(rows) if row["learning_rate"] > 0), len(rows)) + 1
    early = [row[ACCURACIES] for row in rows[first : first + WINDOW]]
    if len(early) == WINDOW and min(early) >= 1:
        found["trivial pairs"] = (
            f"phase {phase.name!r}: every pair is right after the first step, so pairs teach little. Use "
            "harder levels (smaller numbers), or check with `tempo audit` whether length gives answers away"
        )
    names = ("rewards/chosen", "rewards/rejected")
    chosen, rejected = (sum(row[name] for row in rows[-WINDOW:]) / WINDOW for name in names)
    if chosen <= -FALL:
        reason = f"This is not expected here; the learning rate {phase.learning_rate:g} may be too high"
        if rejected < chosen and not phase.nll_weight:
            reason = "This is common in DPO without an NLL term; nll_weight = 1.0 avoids it"
        rewards = f"chosen {chosen:.2f}, rejected {rejected:.2f}"
        found["falling chosen"] = f"phase {phase.name!r}: the rewards of answers fell to {rewards}. {reason}"
    return found
