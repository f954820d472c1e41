"""Rows of a study that never ran: every figure here is made up."""

from __future__ import annotations

import numpy as np

from research.study.summary import summarize_study

#: Made-up temporal accuracy of each row; other figures follow from it.
LEVELS = {
    "blind": 0.45,
    "base": 0.75,
    "sft_only": 0.76,
    "sft_then_dpo": 0.84,
    "method": 0.90,
    "best": 0.95,
    "method_twice": 0.90,
    "method_long": 0.91,
    "ceiling": 0.97,
    "dpo_16": 0.80,
    "dpo_16_8": 0.83,
    "dpo_16_8_4": 0.86,
    "dpo_only": 0.89,
    "mixed": 0.86,
    "hard_easy": 0.85,
    "single_16": 0.80,
    "single_8": 0.82,
    "single_4": 0.83,
    "single_2": 0.84,
    "data_1_8": 0.80,
    "data_1_4": 0.87,
    "data_1_4_long": 0.89,
    "data_1_2": 0.89,
    "sft_long": 0.77,
    "method_sft_long": 0.88,
    "sft_long_then_dpo": 0.84,
    "sft_true": 0.80,
    "method_sft_true": 0.92,
    "a_on_b": 0.83,
    "b_base": 0.70,
    "b_sft_only": 0.71,
    "b_method": 0.85,
    "b_on_a": 0.78,
}
NO_PREFERENCES = ("blind", "base", "sft_only", "sft_long", "sft_true", "b_base", "b_sft_only")


def made_up_row(name, seed, temporal, *, static=0.99, steps=10):
    """One run of one seed; `temporal` moves everything that depends on order."""
    order = float(np.clip(2 * temporal - 1, 0, 1))
    tuned = name not in ("blind", "base", "b_base") and not name.startswith("dpo_")
    start = 1.0 - 0.5 * temporal
    accuracy = {"temporal": temporal, "action": 1.0, "speed": 1.0, "direction": 1.0, "attribute_change": 1.0}
    accuracy |= {"event_order": 0.5 + order / 3, "conflicting": 0.5 + order / 2, "group_score": order}
    accuracy |= {"text_score": order, "video_score": order}
    return {
        "row": name,
        "seed": seed,
        "phases": [] if name in NO_PREFERENCES else ["dpo-16", "sft"],
        "says": f"made up | {name}",
        "accuracy": accuracy,
        "num_samples": {key: 100 if key == "group_score" else 400 for key in (*accuracy, "static")},
        "static_accuracy": static,
        "chance": {"temporal": 0.45, "event_order": 0.5},
        "probe": None if name == "blind" else made_up_probe(order),
        "sft_start": made_up_start(start, steps) if tuned else None,
        "num_pairs": 900 // {"data_1_8": 8, "data_1_4": 4, "data_1_4_long": 4, "data_1_2": 2}.get(name, 1),
        "seconds": 75.0,
        "config": {"model": "b" if name.startswith("b_") else "a", "phases": ["sft"]},
    }


def made_up_probe(order):
    cell = {"win_rate": 0.5 + order / 2, "margin": order}
    return {**cell, "by_kind": {"reverse": cell, "frozen": {"win_rate": 0.5, "margin": 0.0}}}


def made_up_start(start, steps):
    norms = [2 * start * (1 + (0.5 * start if step % 2 else 0.0)) for step in range(steps)]
    return {"loss": [start - 0.02 * step for step in range(steps)], "grad_norm": norms}


def made_up_rows(seeds=(1, 2, 3, 4, 5), *, spread=0.01, levels=LEVELS, **changes):
    """Rows of all seeds, each a little off its level; `changes` are levels of some rows."""
    rows = []
    for name, level in {**levels, **changes}.items():
        for seed in seeds:
            draw = np.random.default_rng([seed, *name.encode()])
            rows.append(made_up_row(name, seed, round(level + spread * float(draw.uniform(-1, 1)), 4)))
    return rows


def made_up_study(rows):
    """The study of some rows, with a command and a commit that nobody ran."""
    return summarize_study(rows, command="made up", commit="0000000", minutes=1.5, date="2000-01-01")
