"""Shared by the benchmarks: forms that run in fresh processes, in turn, and the rows of out/bench.json."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tempo.core.files import write_json

OUT = Path(__file__).parents[1] / "out"
ROWS = OUT / "bench.json"


class Row(BaseModel):
    """One comparison. `ratio` is how many times better ours is, in any unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    setting: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    gradient_difference: float | None = None
    peak_memory_ratio: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """A later row with the same key replaces this one."""
        return self.benchmark, self.setting, self.peer_name


@dataclass(frozen=True)
class Measured:
    """Measurements of one form in one process.

    `peak_megabytes` is the largest resident size in the first step minus the resident size at its start;
    `gradient` is that of the first step, all trained weights in one vector.
    """

    seconds: tuple[float, ...]
    peak_megabytes: float
    losses: tuple[float, ...]
    gradient: np.ndarray


@dataclass(frozen=True)
class Summary:
    """All rounds of a form: median seconds per step, largest peak, losses and gradient of the first round."""

    seconds: float
    peak_megabytes: float
    losses: tuple[float, ...]
    gradient: np.ndarray


def summarise(rounds: Sequence[Measured]) -> Summary:
    """Combines the rounds of a form."""
    seconds = statistics.median(second for measured in rounds for second in measured.seconds)
    peak = max(measured.peak_megabytes for measured in rounds)
    return Summary(seconds, peak, rounds[0].losses, rounds[0].gradient)


def in_turn(forms: dict[str, Callable[[Any], Measured]], setting: Any, *, rounds: int) -> dict[str, Summary]:
    """Runs every form `rounds` times, each time in a fresh process; the forms take turns."""
    results: dict[str, list[Measured]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            results[name].append(in_fresh_process(form, setting))
    return {name: summarise(measured) for name, measured in results.items()}


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns or raises the result of the function in a new process; raises if the process dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def quiet_environment(threads: int) -> None:
    """Sets the environment of a benchmark's processes: number of threads, no hub, no progress bars."""
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def forget_peak() -> float:
    """Returns freed memory to the system and resets the peak; returns the resident size in megabytes.

    Where the peak cannot be reset (outside Linux), returns the peak so far; the memory of a step is then
    understated.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass
    return peak_megabytes()


def peak_megabytes() -> float:
    """The largest resident size of this process since `forget_peak`, from the kernel."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def relative_difference(ours: np.ndarray, peer: np.ndarray) -> float:
    """|ours - peer| / |peer|."""
    return float(np.linalg.norm(ours - peer) / np.linalg.norm(peer))


def rate_row(
    benchmark: str, setting: str, *, ours: Summary, peer: Summary, peer_name: str, count: int, unit: str
) -> Row:
    """The row that compares two forms, both with `count` pairs or samples per step."""
    return Row(
        benchmark=benchmark,
        setting=setting,
        ours=round(count / ours.seconds, 4),
        peer=round(count / peer.seconds, 4),
        peer_name=peer_name,
        unit=unit,
        ratio=round(peer.seconds / ours.seconds, 3),
        gradient_difference=float(f"{relative_difference(ours.gradient, peer.gradient):.2e}"),
        peak_memory_ratio=round(ours.peak_megabytes / max(peer.peak_megabytes, 1e-9), 3),
    )


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows of a file, empty if it does not exist; raises ValueError if it has other content."""
    if not path.exists():
        return []
    try:
        return TypeAdapter(list[Row]).validate_python(json.loads(path.read_text()))
    except (json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{path} is not a list of benchmark rows. Move it away: {error}") from error


def add_rows(rows: Sequence[Row], path: Path = ROWS) -> None:
    """Merges rows into the file: one with the same benchmark, setting and peer is replaced."""
    merged = {row.key: row for row in (*read_rows(path), *rows)}
    write_json(path, [row.model_dump() for row in merged.values()])


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def rows_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    header = ["setting", "peer", "unit", "ours", "peer's", "ratio", "gradients differ by", "memory"]
    lines = [
        [
            row.setting,
            row.peer_name,
            row.unit,
            f"{row.ours:.3g}",
            f"{row.peer:.3g}",
            f"{row.ratio:.2f}x",
            "-" if row.gradient_difference is None else f"{row.gradient_difference:.1e}",
            "-" if row.peak_memory_ratio is None else f"{row.peak_memory_ratio:.2f}x",
        ]
        for row in rows
    ]
    return table(header, lines)
