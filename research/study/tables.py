"""The tables of a study, from `study.json`: which of them there are, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from research.study.cells import Cells
from research.study.figures import SHARES, row_names
from research.study.sft_tables import sft_kinds_table, sft_start_table
from research.study.words import (
    NOT_RUN,
    find,
    find_difference,
    find_mean,
    name_of,
    points_text,
    rho_text,
    share_text,
)
from tempo.evaluation.benchmark import percent

Study = Mapping[str, Any]

#: What a reader looks at first.
MAIN = ("blind", "base", "sft_only", "sft_then_dpo", "method", "best", "ceiling")
SHOWN = ("temporal", "event_order", "conflicting", "group_score", "static")

#: Rows by the question that they answer, in the order of the tables.
GROUPS: dict[str, tuple[str, ...]] = {
    "Main rows": MAIN,
    "After each phase": ("dpo_16", "dpo_16_8", "dpo_16_8_4", "dpo_only"),
    "Curriculum": ("hard_easy", "mixed", "single_16", "single_8", "single_4", "single_2", "adaptive"),
    "Kinds of perturbation": (
        *("only_drop", "only_shuffle", "only_reverse"),
        *("without_drop", "without_shuffle", "without_reverse"),
    ),
    "What the model sees when it answers": ("form_clips", "form_video"),
    "Loss, reference, tower": ("nll_0", "reference_fixed", "vision_trained"),
    "Ideas beyond the paper": (
        *("length_controlled", "two_rounds", "swap", "mirror_half"),
        *("method_twice", "method_long"),
    ),
    "What SFT does to order": (
        *("sft_long", "method_sft_long", "sft_long_then_dpo", "sft_full", "method_sft_full"),
        *("sft_true", "method_sft_true", "rehearsed"),
    ),
    "Number of pairs": ("data_1_8", "data_1_4", "data_1_4_long", "data_1_2"),
    "Two architectures": ("a_on_b", "b_base", "b_sft_only", "b_method", "b_on_a"),
}
OTHER = "Other rows"


def main_table(study: Study) -> Cells:
    """The main rows with intervals, and temporal accuracy against SFT alone."""
    headings = ["row", *map(name_of, SHOWN), "temporal, against SFT alone", "seeds"]
    return Cells("accuracy in percent", headings, [_main_row(study, name) for name in MAIN])


def _main_row(study: Study, name: str) -> list[str]:
    entry = find_mean(study, name, "temporal")
    if entry is None:
        return [name, NOT_RUN, *[""] * (len(SHOWN) + 1)]
    shown = [share_text(find_mean(study, name, measure)) for measure in SHOWN]
    return [name, *shown, _against(study, name, "sft_only"), str(entry["num_seeds"])]


def _against(study: Study, name: str, against: str, measure: str = "temporal") -> str:
    """A difference, paired by seed; a dash beside the row itself."""
    if name == against or not find_mean(study, against, measure):
        return "-" if name == against else NOT_RUN
    entry = find_difference(study, name, against, measure)
    return points_text(entry, measure) if entry else "-"


def differences_table(study: Study) -> Cells:
    """Paired differences of the main rows against SFT alone, measure by measure, in points."""
    names = [name for name in MAIN if name != "sft_only" and find_mean(study, name, "temporal")]
    rows = [[name, *(_against(study, name, "sft_only", measure) for measure in SHOWN)] for name in names]
    return Cells("points over SFT alone, paired by seed", ["row", *map(name_of, SHOWN)], rows)


def grouped_rows(study: Study) -> dict[str, list[str]]:
    """All rows of the study by question; what belongs to none stands under `OTHER`; no group is empty."""
    present = row_names(study["rows"])
    known = {name for names in GROUPS.values() for name in names}
    groups = {title: [name for name in names if name in present] for title, names in GROUPS.items()}
    groups[OTHER] = [name for name in present if name not in known]
    return {title: names for title, names in groups.items() if names}


def absent_rows(study: Study) -> list[str]:
    """Rows that the tables know and the study did not run."""
    present = row_names(study["rows"])
    return [name for names in GROUPS.values() for name in names if name not in present]


def all_tables(study: Study) -> list[Cells]:
    """A table per question, with every row of the study in one of them."""
    headings = ["row", "what it is", "temporal", "event order", "both right", "static", "probe win rate"]
    headings += ["temporal, against SFT alone", "against the method", "seeds"]
    return [
        Cells(title, headings, [_full_row(study, name) for name in names])
        for title, names in grouped_rows(study).items()
    ]


def _full_row(study: Study, name: str) -> list[str]:
    """One row of the table of everything; rows of the other architecture stand beside their own baselines."""
    own = [row for row in study["rows"] if row["row"] == name]
    home = "b_" if name.startswith("b_") else ""
    shown = (
        find_mean(study, name, m) for m in ("temporal", "event_order", "group_score", "static", "win_rate")
    )
    return [
        name,
        str(own[0].get("says") or ""),
        *(share_text(entry) if entry else "-" for entry in shown),
        *(_against(study, name, f"{home}{against}") for against in ("sft_only", "method")),
        str(len(own)),
    ]


def claims_table(study: Study) -> Cells:
    """Every claim with its verdict and the figures behind it."""
    rows = [[c["source"], c["claim"], f"**{c['verdict']}**", c["why"]] for c in study["claims"]]
    return Cells("claims", ["from", "claim", "verdict", "figures"], rows)


def transfer_table(study: Study) -> Cells:
    """The share of the gain over SFT alone that other pairs, or fewer, keep."""
    measures = ("temporal", "order", "group_score")
    rows = []
    for name, whole, start in SHARES:
        entries = [find(study["shares"], row=name, measure=measure) for measure in measures]
        rows.append([name, f"{whole} over {start}", *map(share_text, entries)])
    return Cells("share of the gain kept, in percent", ["row", "the gain", *map(name_of, measures)], rows)


def correlation_table(study: Study) -> Cells:
    """Rank correlations of the probe with accuracy."""
    sets = {"rows": "rows", "runs": "single runs", "trained_rows": "rows trained by preferences"}
    rows = []
    for probe, targets in study["correlation"].items():
        for target, cells in targets.items():
            shown = [f"{rho_text(cells[key])} n = {cells[key]['num_points']}" for key in sets]
            rows.append([name_of(probe), name_of(target), *shown])
    return Cells("Spearman's rho of probe and accuracy", ["probe", "accuracy", *sets.values()], rows)


def probe_table(study: Study) -> Cells:
    """The probe of the main rows and after each phase: win rate, margin, win rate by kind."""
    kinds = _probe_kinds(study["rows"])
    names = [n for n in (*MAIN, *GROUPS["After each phase"]) if find_mean(study, n, "win_rate")]
    rows = []
    for name in names:
        found = [find_mean(study, name, measure) for measure in ("win_rate", "margin")]
        shown = [share_text(found[0]), share_text(found[1], "margin")]
        rows.append([name, *shown, *(_kind_mean(study, name, kind) for kind in kinds)])
    return Cells("the probe on held-out videos", ["row", "win rate", "margin, nats per token", *kinds], rows)


def _probe_kinds(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(kind for row in rows for kind in (row.get("probe") or {}).get("by_kind") or ()))


def _kind_mean(study: Study, name: str, kind: str) -> str:
    """The mean win rate of one kind over seeds, in percent."""
    probes = [row["probe"]["by_kind"] for row in study["rows"] if row["row"] == name and row.get("probe")]
    values = [cells[kind]["win_rate"] for cells in probes if kind in cells]
    return percent(sum(values) / len(values)) if values else "-"


#: Name of a table in documents -> what makes it.
TABLES: dict[str, Callable[[Study], Cells]] = {
    "main": main_table,
    "differences": differences_table,
    "claims": claims_table,
    "transfer": transfer_table,
    "correlation": correlation_table,
    "probe": probe_table,
    "sft-start": sft_start_table,
    "sft-kinds": sft_kinds_table,
}
