"""Results of a study that never ran: all figures are made up, for the rows of configs/study.toml."""

from pathlib import Path

import numpy as np

from research.study.analysis import Results
from research.study.config import load_study

ROOT = Path(__file__).parents[2]
STUDY = load_study(ROOT / "configs" / "study.toml")[0]

#: Made-up temporal accuracies; the other figures follow from them.
LEVELS = {
    "base": 0.75,
    "sft_only": 0.76,
    "sft_then_dpo": 0.84,
    "method": 0.90,
    "blind": 0.45,
    "ceiling": 0.97,
}
LEVELS |= {"four_easy": 0.89, "four_hard": 0.85, "random": 0.86, "only_16": 0.80, "only_2": 0.84}
LEVELS |= {"quarter": 0.858, "half_base": 0.70, "half_on_own": 0.85, "half_on_other": 0.78, "on_other": 0.83}


def make_run(row, seed, temporal, *, static=0.99, num_steps=10):
    """One run; `temporal` moves all figures that depend on order."""
    order = float(np.clip(2 * temporal - 1, 0, 1))
    accuracy = {"temporal": temporal, "event_order": 0.5 + order / 3, "conflicting": 0.5 + order / 2}
    accuracy["group_score"] = order
    score, loss = {"win_rate": 0.5 + order / 2, "margin": order}, 1.0 - 0.5 * temporal
    norms = [2 * loss * (1 + 0.5 * loss * (step % 2)) for step in range(num_steps)]
    return {
        "row": row,
        "seed": seed,
        "phases": [] if row in ("blind", "base", "sft_only", "half_base") else ["dpo-16", "sft"],
        "accuracy": accuracy,
        "num_samples": {name: 100 if name == "group_score" else 400 for name in (*accuracy, "static")},
        "static_accuracy": static,
        "chance": {"temporal": 0.45},
        "probe": None if row == "blind" else {**score, "by_kind": {"reverse": score}},
        "sft_start": {"loss": [loss - 0.02 * step for step in range(num_steps)], "grad_norm": norms},
    }


def make_runs(seeds=(1, 2, 3, 4, 5), *, spread=0.01, levels=LEVELS, **changes):
    """Runs of all seeds, each slightly off the level of its row; `changes` are other levels of some rows."""
    return [
        make_run(
            row, seed, round(level + spread * np.random.default_rng([seed, *row.encode()]).uniform(-1, 1), 4)
        )
        for row, level in {**levels, **changes}.items()
        for seed in seeds
    ]


def make_results(runs, study=STUDY):
    """Results with a command and a commit that do not exist."""
    seeds = sorted({run["seed"] for run in runs})
    origin = {"command": "made up", "commit": "0000000", "date": "2000-01-01", "minutes": 1.5, "seeds": seeds}
    return Results(study, runs, origin)
