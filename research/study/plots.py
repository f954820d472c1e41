"""The plots of a study, from `study.json`; equal studies give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.study.figures import OTHER_ARCHITECTURE, by_seed, row_names
from research.study.tables import MAIN
from research.study.words import NOT_RUN, find_mean, name_of, rho_text

Study = Mapping[str, Any]

#: Baselines and bounds are grey, what is trained by preferences has a colour.
COLOURS = {"sft_then_dpo": "C0", "method": "C1", "best": "C2"}
GREY = "0.6"
MEASURES = {"temporal": "black", "event_order": "C0", "group_score": "C3", "win_rate": "C4"}

PHASES = {
    "base": "base",
    "dpo_16": "DPO 16",
    "dpo_16_8": "DPO 8",
    "dpo_16_8_4": "DPO 4",
    "dpo_only": "DPO 2",
    "method": "then SFT",
}
#: Share of the pairs -> row; without pairs it is SFT alone.
SIZES = {"0": "sft_only", "1/8": "data_1_8", "1/4": "data_1_4", "1/2": "data_1_2", "all": "method"}


def plot(study: Study, name: str, file_format: str = "svg") -> bytes:
    """One of `PLOTS` as the bytes of an SVG or PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text: it can be searched, and no font is drawn into the file.
    with matplotlib.rc_context({"svg.hashsalt": "tempo", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(layout="constrained")
        PLOTS[name](figure, study)
        data = io.BytesIO()
        # When and by which version it was drawn is left out.
        metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
        figure.savefig(data, format=file_format, metadata=metadata)
    return data.getvalue()


def _nothing(axes: Any, rows: Sequence[str]) -> None:
    """Says in the place of a plot what was not run."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"{', '.join(rows)}: {NOT_RUN}", ha="center", va="center", transform=axes.transAxes)


def _bounds(entry: Mapping[str, Any], scale: float = 100) -> tuple[float, float]:
    """How far the interval reaches below and above the mean; nothing without an interval."""
    low, high = entry["interval"] or (entry["mean"], entry["mean"])
    # The interval of a share is cut at 0 and 1, so the mean may lie a rounding outside of it.
    return max(0.0, scale * (entry["mean"] - low)), max(0.0, scale * (high - entry["mean"]))


def draw_main(figure: Any, study: Study) -> None:
    """Bars of the main rows with intervals, and a dot per seed."""
    figure.set_size_inches(10, 3.2)
    names = [name for name in MAIN if find_mean(study, name, "temporal")]
    if not names:
        _nothing(figure.subplots(), MAIN)
        return
    measures = ("temporal", "event_order", "group_score", "static")
    for axes, measure in zip(figure.subplots(1, len(measures), sharey=True), measures, strict=True):
        for place, name in enumerate(names):
            _bar(axes, study, name, measure, len(names) - 1 - place)
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set(title=name_of(measure), xlim=(0, 102), xlabel="percent")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)


def _bar(axes: Any, study: Study, name: str, measure: str, place: float) -> None:
    entry = find_mean(study, name, measure)
    if entry is None:
        return
    below, above = _bounds(entry)
    axes.barh(place, 100 * entry["mean"], 0.65, color=COLOURS.get(name, GREY), alpha=0.75)
    axes.errorbar(100 * entry["mean"], place, xerr=[[below], [above]], color="black", capsize=3, linewidth=1)
    seeds = [100 * value for value in by_seed(study["rows"], name, measure).values()]
    axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=2.5, alpha=0.6)


def draw_phases(figure: Any, study: Study) -> None:
    """Order after every phase of the method; SFT alone stands beside it."""
    figure.set_size_inches(8, 3.4)
    axes = figure.subplots()
    names = [name for name in (*PHASES, "sft_only") if find_mean(study, name, "temporal")]
    if not names:
        _nothing(axes, [*PHASES, "sft_only"])
        return
    places = {name: index + (0.5 if name == "sft_only" else 0) for index, name in enumerate(names)}
    for number, measure in enumerate(("event_order", "group_score", "win_rate")):
        shift = 0.05 * (number - 1)
        path = [name for name in names if name != "sft_only"]
        _line(axes, study, {places[name] + shift: name for name in path}, measure)
        if "sft_only" in places:
            _line(axes, study, {places["sft_only"] + shift: "sft_only"}, measure, labelled=False)
    axes.set_xticks([*places.values()], [PHASES.get(name, "SFT only") for name in places])
    axes.set(ylabel="percent", ylim=(-3, 103))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


def _line(axes: Any, study: Study, rows: Mapping[float, str], measure: str, *, labelled: bool = True) -> None:
    """Means of some rows in percent with their intervals, joined by a line."""
    found = {place: find_mean(study, name, measure) for place, name in rows.items()}
    known = {place: entry for place, entry in found.items() if entry}
    if not known:
        return
    errors = [[_bounds(entry)[side] for entry in known.values()] for side in (0, 1)]
    middles = [100 * entry["mean"] for entry in known.values()]
    label = name_of(measure) if labelled else None
    style = {"color": MEASURES[measure], "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.5}
    axes.errorbar([*known], middles, yerr=errors, label=label, **style)


def draw_data(figure: Any, study: Study) -> None:
    """Accuracy over the number of pairs, from none (SFT alone) to all (the method)."""
    figure.set_size_inches(7, 3.2)
    axes = figure.subplots()
    names = {size: name for size, name in SIZES.items() if find_mean(study, name, "temporal")}
    if len(names) < 2:
        _nothing(axes, [*SIZES.values()])
        return
    for number, measure in enumerate(("temporal", "event_order", "group_score")):
        rows = {place + 0.04 * (number - 1): name for place, name in enumerate(names.values())}
        _line(axes, study, rows, measure)
    ticks = [f"{size}\n{_num_pairs(study, name)}" for size, name in names.items()]
    axes.set_xticks(range(len(names)), ticks)
    axes.set(xlabel="share of the pairs, and their number", ylabel="percent", ylim=(-3, 103))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


def _num_pairs(study: Study, name: str) -> str:
    counts = [row.get("num_pairs") for row in study["rows"] if row["row"] == name]
    known = [count for count in counts if count is not None]
    return f"{sum(known) / len(known):.0f}" if known and name != "sft_only" else ""


def draw_probe(figure: Any, study: Study) -> None:
    """The probe's win rate against accuracy: a dot per run, a larger one per row."""
    figure.set_size_inches(9, 3.8)
    for axes, target in zip(figure.subplots(1, 2), ("temporal", "order"), strict=True):
        names = [name for name in row_names(study["rows"]) if name not in OTHER_ARCHITECTURE]
        pairs = {name: [find_mean(study, name, m) for m in ("win_rate", target)] for name in names}
        known = {name: (x, y) for name, (x, y) in pairs.items() if x and y}
        if not known:
            _nothing(axes, ["probe"])
            continue
        for name, (x, y) in known.items():
            _runs(axes, study, name, target)
            colour = COLOURS.get(name, "0.35")
            axes.plot(100 * x["mean"], 100 * y["mean"], "o", color=colour, markersize=6)
            if name in MAIN:
                place = {"xytext": (5, -10), "textcoords": "offset points", "fontsize": "small"}
                axes.annotate(name, (100 * x["mean"], 100 * y["mean"]), **place)
        rho = study["correlation"]["win_rate"][target]["rows"]
        axes.set(xlabel="probe win rate, percent", ylabel=f"{name_of(target)}, percent")
        axes.set_title(f"rank correlation over rows {rho_text(rho)}", fontsize="medium")
        axes.margins(0.12)
        axes.grid(alpha=0.3)


def _runs(axes: Any, study: Study, name: str, target: str) -> None:
    """A small dot per seed of one row."""
    x, y = by_seed(study["rows"], name, "win_rate"), by_seed(study["rows"], name, target)
    seeds = sorted({*x} & {*y})
    across, up = [100 * x[seed] for seed in seeds], [100 * y[seed] for seed in seeds]
    axes.plot(across, up, "o", color=COLOURS.get(name, GREY), markersize=2.5, alpha=0.7)


def draw_sft_start(figure: Any, study: Study) -> None:
    """Loss and gradient norm over SFT's first steps: thin lines are seeds, the thick one their mean."""
    figure.set_size_inches(8, 3.2)
    rows = {"sft_only": ("SFT only", "0.4"), "method": ("after preferences", COLOURS["method"])}
    for axes, key in zip(figure.subplots(1, 2), ("loss", "grad_norm"), strict=True):
        drawn = [_first_steps(axes, study, name, key, *style) for name, style in rows.items()]
        if not any(drawn):
            _nothing(axes, [*rows])
            continue
        axes.set(title=key.replace("_", " "), xlabel="step of SFT")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


def _first_steps(axes: Any, study: Study, name: str, key: str, label: str, colour: str) -> bool:
    """Draws the first steps of one row; False where it has none."""
    starts = [row["sft_start"][key] for row in study["rows"] if row["row"] == name and row.get("sft_start")]
    starts = [values for values in starts if values]
    if not starts:
        return False
    steps = range(1, min(map(len, starts)) + 1)
    for values in starts:
        axes.plot(steps, values[: len(steps)], color=colour, linewidth=0.6, alpha=0.5)
    means = [sum(values[step - 1] for values in starts) / len(starts) for step in steps]
    axes.plot(steps, means, color=colour, linewidth=2, marker="o", markersize=3, label=label)
    return True


#: Name of a plot in documents -> what draws it.
PLOTS: dict[str, Callable[[Any, Study], None]] = {
    "main": draw_main,
    "phases": draw_phases,
    "data": draw_data,
    "probe": draw_probe,
    "sft-start": draw_sft_start,
}
