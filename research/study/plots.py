"""The plots of a study; equal results give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from research.study import analysis
from research.study.analysis import NOT_RUN, Estimate, Results
from research.study.config import PlotConfig

#: Color of rows without a configured color.
GREY = "0.6"


def draw(results: Results, name: str) -> bytes:
    """One of the study's plots as an SVG file."""
    # Text is stored as text, so that it can be searched and no font is embedded.
    with matplotlib.rc_context({"svg.hashsalt": "tempo", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(layout="constrained")
        plot = results.study.plots[name]
        if any(row in results.rows for row in plot.rows):
            KINDS[plot.kind](figure, results, plot)
        else:
            axes = figure.subplots()
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"{', '.join(plot.rows)}: {NOT_RUN}", ha="center", wrap=True)
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


def _lines(figure: Any, results: Results, plot: PlotConfig) -> None:
    """A line for each metric over the rows, with intervals; a dotted line shows the first baseline."""
    figure.set_size_inches(8, 3.4)
    axes = figure.subplots()
    baseline = next(iter(results.study.baselines.values()), "")
    for number, metric in enumerate(plot.metrics):
        found = {position: analysis.mean(results, row, metric) for position, row in enumerate(plot.rows)}
        known = {position + 0.05 * (number - 1): estimate for position, estimate in found.items() if estimate}
        errors = [[_errors(estimate)[side] for estimate in known.values()] for side in (0, 1)]
        means = [100 * estimate.mean for estimate in known.values()]
        style = {"color": f"C{number}", "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.5}
        axes.errorbar([*known], means, yerr=errors, label=analysis.label(metric), **style)
        if reference := analysis.mean(results, baseline, metric):
            axes.axhline(100 * reference.mean, color=f"C{number}", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(plot.rows)), plot.labels or plot.rows)
    axes.set(xlabel=plot.xlabel, ylabel=f"percent (dotted: {baseline})", ylim=(-3, 103))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


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
    "lines": _lines,
    "scatter": _scatter,
    "first_steps": _first_steps,
}
