"""What a probe found: win rates and margins with intervals, as data, as a table and as a chart."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Kind
from tempo.core.statistics import cluster_interval, share_interval
from tempo.evaluation.benchmark import percent

#: With fewer videos than this, a score has no interval.
MIN_VIDEOS = 5

#: `frozen`: every frame is the middle one; it has no level, which is written as 0.
ProbeKind = Literal[Kind, "frozen"]

#: In the order of tables and charts.
KINDS: tuple[ProbeKind, ...] = ("reverse", "shuffle", "drop", "frozen")

CHART_FORMATS = (".png", ".svg")


class Comparison(Frozen):
    """Log-likelihoods (nats) of the description of `video`, given the clean and one perturbed video.

    `num_tokens` counts the tokens of the description, end of turn included.
    """

    video: str
    kind: ProbeKind
    level: int
    num_tokens: int
    clean: float
    perturbed: float

    @property
    def margin(self) -> float:
        """By how many nats the description is likelier with the clean video."""
        return self.clean - self.perturbed

    @property
    def win(self) -> float:
        """1 if it is likelier with the clean video, 0 if with the perturbed one, 0.5 for a tie."""
        return 0.5 + 0.5 * float(np.sign(self.margin))


class LeftOut(Frozen):
    """A video that was not probed: its path as `id`, and why."""

    id: str
    reason: str
    detail: str


class ProbeScore(Frozen):
    """Win rate and mean margins of some comparisons, with 95 % intervals (None for few videos).

    A tie is half a win: a win rate of 0.5 means that the model does not notice the change. `margin` is in
    nats per description, `margin_per_token` in nats per token of it.
    """

    num_videos: int
    num_comparisons: int
    win_rate: float
    win_rate_interval: tuple[float, float] | None
    margin_per_token: float
    margin_per_token_interval: tuple[float, float] | None
    margin: float
    margin_interval: tuple[float, float] | None


class KindScore(ProbeScore):
    """The score of one kind of perturbation, and the same by level, easiest first."""

    by_level: dict[str, ProbeScore]


class ProbeReport(KindScore):
    """What a probe found: scores of all comparisons, by kind and by level, and what they are made of.

    `descriptions` are the texts that were scored, by video id.
    """

    by_kind: dict[str, KindScore]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[LeftOut, ...]
    descriptions: dict[str, str]


def report_comparisons(
    comparisons: Sequence[Comparison],
    *,
    seed: int,
    left_out: Sequence[LeftOut] = (),
    descriptions: Mapping[str, str] | None = None,
) -> ProbeReport:
    """The scores of comparisons (at least one); intervals come from resampling videos with `seed`."""
    draws = derive_seed(seed, "probe", "bootstrap")
    by_kind = {kind: [row for row in comparisons if row.kind == kind] for kind in KINDS}
    return ProbeReport(
        **_score(comparisons, draws),
        by_level=_by_level(comparisons, draws),
        by_kind={
            kind: KindScore(**_score(rows, draws), by_level=_by_level(rows, draws))
            for kind, rows in by_kind.items()
            if rows
        },
        comparisons=tuple(comparisons),
        left_out=tuple(left_out),
        descriptions=dict(descriptions or {}),
    )


def probe_table(report: ProbeReport) -> Table:
    """A row per kind and level, and one for all; a dash where there are too few videos for an interval."""
    table = Table(title="how often, and by how much, a description is likelier with the clean video")
    for heading in ("", "videos", "win %", "95 % interval", "nats/token", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, score in _table_rows(report):
        rates, margins = score.win_rate_interval, score.margin_per_token_interval
        table.add_row(
            name,
            str(score.num_videos),
            percent(score.win_rate),
            " - ".join(map(percent, rates)) if rates else "-",
            f"{score.margin_per_token:.3f}",
            " to ".join(f"{bound:.3f}" for bound in margins) if margins else "-",
        )
    return table


def check_chart_path(path: Path) -> None:
    """Raises ValueError for a file name without a known image format."""
    if path.suffix.lower() not in CHART_FORMATS:
        raise ValueError(f"--chart {path}: the name must end with {' or '.join(CHART_FORMATS)}")


def write_chart(report: ProbeReport, path: Path, *, title: str) -> None:
    """Draws win rates and margins by kind and level; equal figures give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    # A fixed salt and no metadata of date and version, so that the bytes depend on the figures alone.
    with matplotlib.rc_context({"svg.hashsalt": "tempo"}):
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        # A file name may contain dollar signs.
        figure.suptitle(title, parse_math=False)
        left, right = figure.subplots(1, 2)
        _draw(left, report, "win_rate", unnoticed=0.5)
        _draw(right, report, "margin_per_token", unnoticed=0.0)
        left.set(ylabel="win rate", ylim=(-0.03, 1.03))
        right.set(ylabel="margin, nats per token")
        figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
        data, name = io.BytesIO(), path.suffix.lower().removeprefix(".")
        figure.savefig(data, format=name, metadata={"Date" if name == "svg" else "Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def _score(comparisons: Sequence[Comparison], seed: int) -> dict[str, Any]:
    """The fields of a ProbeScore."""
    videos = [row.video for row in comparisons]
    figures = {
        "win_rate": ([row.win for row in comparisons], share_interval),
        "margin_per_token": ([row.margin / row.num_tokens for row in comparisons], cluster_interval),
        "margin": ([row.margin for row in comparisons], cluster_interval),
    }
    found: dict[str, Any] = {"num_videos": len(set(videos)), "num_comparisons": len(comparisons)}
    for name, (values, interval_of) in figures.items():
        found[name], found[f"{name}_interval"] = round(float(np.mean(values)), 5), None
        if found["num_videos"] >= MIN_VIDEOS:
            low, high = interval_of(values, videos, seed=seed)
            found[f"{name}_interval"] = (round(low, 5), round(high, 5))
    return found


def _by_level(comparisons: Sequence[Comparison], seed: int) -> dict[str, ProbeScore]:
    levels = sorted({row.level for row in comparisons} - {0}, reverse=True)
    rows = {level: [row for row in comparisons if row.level == level] for level in levels}
    return {str(level): ProbeScore(**_score(rows[level], seed)) for level in levels}


def _table_rows(report: ProbeReport) -> Iterator[tuple[str, ProbeScore]]:
    for kind, score in report.by_kind.items():
        yield kind, score
        yield from ((f"  r = {level}", inner) for level, inner in score.by_level.items())
    yield "all", report


def _draw(axes: Any, report: ProbeReport, key: str, *, unnoticed: float) -> None:
    """A line per kind over the levels, easy to hard, with intervals; a kind without levels stands beside."""
    names = list(report.by_level)
    for number, (kind, score) in enumerate(report.by_kind.items()):
        points: Mapping[str, ProbeScore] = score.by_level or {kind: score}
        names += [name for name in points if name not in names]
        # A small offset per kind, so that no interval hides another.
        places = [names.index(name) + 0.06 * (number - 1) for name in points]
        means = [getattr(point, key) for point in points.values()]
        axes.plot(places, means, marker="o", markersize=4, label=kind, color=f"C{number}")
        for place, point in zip(places, points.values(), strict=True):
            if interval := getattr(point, f"{key}_interval"):
                axes.vlines(place, *interval, color=f"C{number}", linewidth=1.5)
    axes.axhline(unnoticed, color="grey", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(names)), [f"r = {name}" if name.isdigit() else name for name in names])
    axes.grid(alpha=0.3)
