"""What DPO learns per operation, by the pairs in a row and the rows in a step.

    python -m research.study configs/study_grouping.toml --out out/grouping
    python benchmarks/grouping.py [out/grouping]

Prints the rows of the study with the operations of all their optimizer steps, by the formulas of flops.py:
for the embedded model on the videos of the study, and for Qwen2.5-VL-7B on as many pairs with 11,520 visual
tokens and answers of 300. Both use LoRA of rank 32; recomputation for checkpointing is not counted.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flops import packed_step_flops
from gpu_model import SEVEN_B, make_config
from harness import table
from policies import LORA

from research.study.analysis import difference, label, mean
from research.study.config import load_study, row_config
from research.study.output import read_results
from tempo.config import DpoPhase
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.model.chat import VideoLM
from tempo.model.loading import load_processor, read_config
from tempo.training.examples import Example, dpo_examples
from tempo.video.frames import FrameStore

CONFIG = Path(__file__).parents[1] / "configs" / "study_grouping.toml"
METRICS = ("temporal", "group_score", "static")
#: The row that others are compared with, paired by seed.
BASELINE = "level_4_1"


def embedded_flops(directory: Path, examples: Sequence[Example]) -> float:
    """Operations of one epoch of the embedded model on examples of the run in `directory`."""
    lm, frames = VideoLM(None, load_processor("embedded")), FrameStore(directory / "frames")
    config, total = read_config("embedded"), 0.0
    for example in examples:
        group = example.load(lm, frames)
        grid = group.inputs["video_grid_thw"][0].tolist()
        total += packed_step_flops(config, group.lengths, grid, lora_rank=LORA["lora_rank"])
    return total


def seven_flops(examples: Sequence[Example]) -> float:
    """Operations of one epoch of the 7B model on as many examples, answers and pairs."""
    config, size = make_config(SEVEN_B), SEVEN_B
    prefix = size.grid[0] * size.grid[1] * size.grid[2] // 4 + size.num_prompt_tokens + 5
    lengths = [(prefix, *[size.num_answer_tokens] * len(example.answers)) for example in examples]
    return sum(packed_step_flops(config, row, size.grid, lora_rank=LORA["lora_rank"]) for row in lengths)


@functools.cache
def epoch_flops(directory: Path, grouping: str, levels: tuple[int, ...]) -> tuple[float, float]:
    """Operations of one epoch on the pairs of a run: of the 7B model, and of the embedded one."""
    options = {"grouping": grouping, "levels": levels, "learning_rate": 1.0}
    phase = DpoPhase.model_validate({"name": "dpo", "objective": "dpo", **options})
    examples = dpo_examples(RunStore(directory).read("pairs", Pair), phase)
    return seven_flops(examples), embedded_flops(directory, examples)


def operations(directory: Path, phases: Sequence[Any]) -> tuple[float, ...]:
    """Operations of all phases on the pairs of a run: of the 7B model, and of the embedded one."""
    each = [(phase.epochs, epoch_flops(directory, phase.grouping, phase.levels)) for phase in phases]
    return tuple(sum(epochs * flops[index] for epochs, flops in each) for index in (0, 1))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, nargs="?", default=Path("out/grouping"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    given = parser.parse_args()
    study, plain = load_study(given.config)
    results = read_results(study, given.study / "study.json")
    lines = []
    for row in results.rows:
        runs = [run for run in results.runs if run["row"] == row]
        seed = runs[0]["seed"]
        phases = row_config(study, plain, row, seed=seed).training.phases
        (data,) = given.study.glob(f"{seed}-data-*")
        seven, embedded = operations(data, phases)
        steps = sum(run["num_steps"] for run in runs) / len(runs)
        scores = [found.text() if (found := mean(results, row, metric)) else "-" for metric in METRICS]
        rates = {f"{phase.learning_rate:g}" for phase in phases}
        cells = [row, " ".join(rates), f"{steps:.0f}", f"{seven / 1e15:.0f}", f"{embedded / 1e12:.1f}"]
        changes = [difference(results, row, BASELINE, metric) for metric in METRICS]
        more = [found.text(signed=True) if found and row != BASELINE else "-" for found in changes]
        lines.append([*cells, *scores, *more])
    header = ["row", "rate", "steps", "7B, PFLOP", "embedded, TFLOP", *map(label, METRICS)]
    header += [f"{label(metric)}, against {BASELINE}" for metric in METRICS]
    print(table(header, lines))


if __name__ == "__main__":
    main()
