"""The plots of a study; equal results give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from research.study import analysis
from research.study.analysis import NOT_RUN, Estimate, Results
from research.study.claims import UNKNOWN, compare
from research.study.config import PlotConfig

#: Color of rows without a configured color.
GREY = "0.6"


def draw(results: Results, name: str) -> bytes:
    """One of the study's plots as an SVG file."""
    # Text is stored as text, so that it can be searched and no font is embedded.
    with matplotlib.rc_context({"svg.hashsalt": "tempo", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(layout="constrained")
        plot = results.study.plots[name]
        rows = plot.rows or [row for one in compare(results) for row in one.rows]
        if any(row in results.rows for row in rows):
            KINDS[plot.kind](figure, results, plot)
        else:
            axes = figure.subplots()
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"{', '.join(plot.rows) or name}: {NOT_RUN}", ha="center", wrap=True)
        data = io.BytesIO()
        # Date and version are left out, so that equal results give equal bytes.
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()


def _bars(figure: Any, results: Results, plot: PlotConfig) -> None:
    """A panel of bars for each metric, with intervals, and a dot for each seed."""
    figure.set_size_inches(10, 3.2)
    names = [row for row in plot.rows if row in results.rows]
    for axes, metric in zip(figure.subplots(1, len(plot.metrics), sharey=True), plot.metrics, strict=True):
        for position, row in enumerate(reversed(names)):
            if found := analysis.mean(results, row, metric):
                color = results.study.colors.get(row, GREY)
                axes.barh(position, 100 * found.mean, 0.65, color=color, alpha=0.75)
                errors = [[side] for side in _errors(found)]
                axes.errorbar(100 * found.mean, position, xerr=errors, color="black", capsize=3, linewidth=1)
                seeds = 100 * analysis.by_seed(results, row, metric)
                axes.plot(seeds, [position] * len(seeds), "o", color="black", markersize=2.5, alpha=0.6)
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set(title=analysis.label(metric), xlim=(0, 102), xlabel="percent")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)


def _map(figure: Any, results: Results, plot: PlotConfig) -> None:
    """A line for each comparison of the map: the difference with its 95 % interval, a panel for each metric.

    In the first panel, whose metric decides, thin lines are corrected intervals, and comparisons that they
    decide have a color.
    """
    made = compare(results)
    places, labels, y = dict[int, Any](), list[tuple[float, str, bool]](), 0.0
    for number, one in enumerate(made):
        if not number or made[number - 1].question != one.question:
            y += 1.4
            labels.append((y, one.question, True))
            y += 1
        labels.append((y, one.condition, False))
        places[number] = y
        y += 1
    figure.set_size_inches(10, 0.5 + 0.19 * y)
    panels = figure.subplots(1, len(plot.metrics), sharey=True)
    colors = {"better": "C2", "worse": "C3", UNKNOWN: "0.45"}
    for panel, (axes, metric) in enumerate(zip(panels, plot.metrics, strict=True)):
        for number, one in enumerate(made):
            found = analysis.difference(results, *one.rows, metric)
            if not found:
                continue
            style = {"color": colors[one.outcome] if not panel else "0.45"}
            if not panel and one.corrected and one.corrected.interval:
                ends = [100 * end for end in one.corrected.interval]
                axes.plot(ends, [places[number]] * 2, linewidth=1, **style)
            if found.interval:
                axes.plot([100 * end for end in found.interval], [places[number]] * 2, linewidth=3.5, **style)
            axes.plot(100 * found.mean, places[number], "o", markersize=5, **style)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=analysis.label(metric), xlabel="difference in points")
        axes.grid(axis="x", alpha=0.3)
    axes = panels[0]
    axes.set_yticks([place for place, *_ in labels], [text for _, text, _ in labels])
    for tick, (_, _, is_question) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_question else "normal")
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    axes.set_ylim(y, 0.6)


def _scatter(figure: Any, results: Results, plot: PlotConfig) -> None:
    """Metrics of all rows of the study's own model against the probe's win rate; `plot.rows` have labels."""
    figure.set_size_inches(9, 3.8)
    for axes, metric in zip(figure.subplots(1, len(plot.metrics)), plot.metrics, strict=True):
        for row in analysis.comparable_rows(results):
            x, y = (analysis.mean(results, row, name) for name in ("win_rate", metric))
            if x and y:
                position, color = (100 * x.mean, 100 * y.mean), results.study.colors.get(row, "0.35")
                runs = 100 * results.values.loc[row, ["win_rate", metric]]
                axes.plot(runs["win_rate"], runs[metric], "o", color=color, markersize=2.5, alpha=0.4)
                axes.plot(*position, "o", color=color, markersize=6)
                if row in plot.rows:
                    axes.annotate(row, position, (5, -10), textcoords="offset points", fontsize="small")
        rho = analysis.correlation(results, "win_rate", metric)
        axes.set(xlabel="probe win rate, percent", ylabel=f"{analysis.label(metric)}, percent")
        axes.set_title(f"rank correlation over rows {rho.text('rho') if rho else '-'}", fontsize="medium")
        axes.margins(0.12)
        axes.grid(alpha=0.3)


def _first_steps(figure: Any, results: Results, plot: PlotConfig) -> None:
    """Loss and gradient norm over the first steps of SFT: thin lines are seeds, thick lines their means."""
    figure.set_size_inches(8, 3.2)
    for axes, key in zip(figure.subplots(1, 2), ("loss", "grad_norm"), strict=True):
        for row, label in zip(plot.rows, plot.labels or plot.rows, strict=True):
            starts = [(run.get("sft_start") or {}).get(key) for run in results.runs if run["row"] == row]
            # Only the steps that all seeds have.
            columns = [*zip(*(steps for steps in starts if steps), strict=False)]
            color, steps = results.study.colors.get(row, "0.4"), range(1, len(columns) + 1)
            for values in zip(*columns, strict=True):
                axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.5)
            means = [sum(column) / len(column) for column in columns]
            if means:
                axes.plot(steps, means, color=color, linewidth=2, marker="o", markersize=3, label=label)
        axes.set(title=key.replace("_", " "), xlabel="step of SFT")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


def _errors(found: Estimate) -> tuple[float, float]:
    """How far the interval reaches below and above the mean, in percent; zeros without an interval."""
    low, high = found.interval or (found.mean, found.mean)
    # The interval of a share is clipped to [0, 1], so rounding may put the mean just outside.
    return max(0.0, 100 * (found.mean - low)), max(0.0, 100 * (high - found.mean))


KINDS: dict[str, Callable[[Any, Results, PlotConfig], None]] = {
    "bars": _bars,
    "scatter": _scatter,
    "first_steps": _first_steps,
    "map": _map,
}
