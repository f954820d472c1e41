"""The results of a probe: win rates and margins with intervals, as data, as a table and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich.table import Table

from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Kind, Skipped
from tempo.core.statistics import cluster_interval, share_interval
from tempo.evaluation.figures import MIN_VIDEOS, figure_table, percent

#: `frozen`: every frame is the middle one; its level is written as 0.
ProbeKind = Literal[Kind, "frozen"]

#: In the order of tables and charts.
KINDS: tuple[ProbeKind, ...] = ("reverse", "shuffle", "drop", "frozen")


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
        """How many nats more likely the description is with the clean video."""
        return self.clean - self.perturbed

    @property
    def win(self) -> float:
        """1 if it is more likely with the clean video, 0 if with the perturbed one, 0.5 for a tie."""
        return 0.5 + 0.5 * float(np.sign(self.margin))


class ProbeScore(Frozen):
    """Win rate and mean margin (nats per token) of some comparisons.

    A tie is half a win: a win rate of 0.5 means that the model does not notice the change. The 95 % intervals
    are None for fewer than MIN_VIDEOS videos.
    """

    num_videos: int
    num_comparisons: int
    win_rate: float
    win_rate_interval: tuple[float, float] | None
    margin_per_token: float
    margin_per_token_interval: tuple[float, float] | None


class KindScore(ProbeScore):
    """The score of one kind of perturbation, and its scores by level, easiest first."""

    by_level: dict[str, ProbeScore]


class ProbeReport(KindScore):
    """The results of a probe: scores of all comparisons, by kind and by level, and the comparisons.

    `left_out` are videos that were not probed, each with its path as `id`; `descriptions` are the texts that
    were scored, by video id.
    """

    by_kind: dict[str, KindScore]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[Skipped, ...] = ()
    descriptions: dict[str, str] = Field(default_factory=dict)


def report_comparisons(comparisons: Sequence[Comparison], *, seed: int) -> ProbeReport:
    """The scores of comparisons (at least one); intervals come from resampling videos with `seed`."""
    draws = derive_seed(seed, "probe", "bootstrap")
    by_kind = {kind: [row for row in comparisons if row.kind == kind] for kind in KINDS}
    return ProbeReport(
        **_kind_score(comparisons, draws),
        by_kind={kind: KindScore(**_kind_score(rows, draws)) for kind, rows in by_kind.items() if rows},
        comparisons=tuple(comparisons),
    )


def probe_table(report: ProbeReport) -> Table:
    """One row per kind and level, and one for all; a dash if there are too few videos for intervals."""
    scores: dict[str, ProbeScore] = {}
    for kind, kind_score in report.by_kind.items():
        scores[kind] = kind_score
        scores |= {f"{kind}, r = {level}": score for level, score in kind_score.by_level.items()}
    rows = []
    for name, score in {**scores, "all": report}.items():
        rates, margins = score.win_rate_interval, score.margin_per_token_interval
        shown_rates = " - ".join(map(percent, rates)) if rates else "-"
        shown_margins = " to ".join(f"{bound:.3f}" for bound in margins) if margins else "-"
        figures = (percent(score.win_rate), shown_rates, f"{score.margin_per_token:.3f}", shown_margins)
        rows.append((name, str(score.num_videos), *figures))
    headings = ("", "videos", "win %", "95 % interval", "nats/token", "95 % interval")
    title = "how often, and by how much, a description is more likely with the clean video"
    return figure_table(title, headings, rows)


def write_chart(report: ProbeReport, path: Path, *, title: str) -> None:
    """Draws win rates and margins by kind and level (.png or .svg); equal reports give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    # A fixed salt and no date or version in the metadata, so that the bytes depend only on the figures.
    with matplotlib.rc_context({"svg.hashsalt": "tempo"}):
        figure = Figure(figsize=(10, 3.5), layout="constrained")
        # A file name may contain dollar signs.
        figure.suptitle(title, parse_math=False)
        for axes, key in zip(figure.subplots(1, 2), ("win_rate", "margin_per_token"), strict=True):
            # "all" comes first, because it has every level, in order.
            for name, score in {"all": report, **report.by_kind}.items():
                points = score.by_level or {name: score}
                means = [getattr(point, key) for point in points.values()]
                ends = [getattr(point, f"{key}_interval") or (None, None) for point in points.values()]
                errors = np.abs(np.array(ends, np.float64) - np.array(means)[:, None]).T
                axes.errorbar(list(points), means, yerr=errors, marker="o", capsize=3, label=name)
            axes.set(xlabel="level", ylabel=key.replace("_", " "))
            axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, metadata={"Date" if path.suffix.lower() == ".svg" else "Software": None})


def _score(comparisons: Sequence[Comparison], seed: int) -> dict[str, Any]:
    """The fields of a ProbeScore."""
    videos = [row.video for row in comparisons]
    found: dict[str, Any] = {"num_videos": len(set(videos)), "num_comparisons": len(comparisons)}
    for name, values, interval_of in (
        ("win_rate", [row.win for row in comparisons], share_interval),
        ("margin_per_token", [row.margin / row.num_tokens for row in comparisons], cluster_interval),
    ):
        bounds = interval_of(values, videos, seed=seed) if found["num_videos"] >= MIN_VIDEOS else None
        found[name] = round(float(np.mean(values)), 5)
        found[f"{name}_interval"] = bounds and (round(bounds[0], 5), round(bounds[1], 5))
    return found


def _kind_score(comparisons: Sequence[Comparison], seed: int) -> dict[str, Any]:
    """The fields of a KindScore."""
    levels = sorted({row.level for row in comparisons} - {0}, reverse=True)
    rows = {str(level): [row for row in comparisons if row.level == level] for level in levels}
    by_level = {level: ProbeScore(**_score(own, seed)) for level, own in rows.items()}
    return {**_score(comparisons, seed), "by_level": by_level}
