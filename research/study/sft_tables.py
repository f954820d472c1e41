"""The tables about SFT: how it starts, and what it does to order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.study.cells import Cells
from research.study.figures import SFT_KINDS
from research.study.words import find_difference, find_mean, name_of, points_text, share_text

Study = Mapping[str, Any]


def sft_start_table(study: Study) -> Cells:
    """SFT's first steps after preferences and without them."""
    measures = ("sft_loss", "sft_grad_norm", "sft_grad_spread")
    names = ("sft_only", "method")
    rows = []
    for measure in measures:
        shown = [share_text(find_mean(study, name, measure), measure) for name in names]
        difference = find_difference(study, "method", "sft_only", measure)
        rows.append([name_of(measure), *shown, points_text(difference, measure)])
    return Cells("SFT's first steps", ["", *names, "difference"], rows)


def sft_kinds_table(study: Study) -> Cells:
    """For each kind of SFT: order after it, without preferences before it and with them, and what it took."""
    headings = [
        "SFT",
        "order, SFT alone",
        "order, the method",
        "what SFT took, in points",
        "loss at its start",
    ]
    headings += ["after preferences", "seeds"]
    rows = []
    for kind, (alone, after) in SFT_KINDS.items():
        shown = [share_text(find_mean(study, name, "order")) for name in (alone, after)]
        took = points_text(find_difference(study, after, "dpo_only", "order"))
        starts = [share_text(find_mean(study, name, "sft_loss"), "sft_loss") for name in (alone, after)]
        entry = find_mean(study, after, "order")
        rows.append([kind, *shown, took, *starts, str(entry["num_seeds"]) if entry else "-"])
    return Cells("what SFT does to order", headings, rows)
