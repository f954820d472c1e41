"""Figures: what each model of a run scores, and by how much the result differs from the other models.

All models are measured on the same items (questions, pairs, descriptions), so differences are paired. Items
of one video are not independent: intervals come from resampling videos.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tempo.core.files import parse_row
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen
from tempo.core.statistics import cluster_interval, share_interval

#: The number of videos below which there are no intervals and no p values.
MIN_VIDEOS = 5

#: The name of the trained model among the models of a run.
RESULT = "tempo"

#: A figure with this word in its name is in nats per token; all others are shares.
MARGIN = "margin"


class Item(NamedTuple):
    """What one model scores on one item about a video; a right answer is 1, a wrong one 0."""

    id: str
    video: str
    value: float


class Value(Frozen):
    """A mean over items and its 95 % interval, which is None for fewer than MIN_VIDEOS videos.

    A difference of shares has the p value of the exact McNemar test, which counts items as independent.
    """

    value: float
    interval: tuple[float, float] | None
    p_value: float | None = None


class Figure(Frozen):
    """One row of the table: `values` by model, and `differences` of the result from each other model.

    `source` is what was measured: the held-out videos, or the name of a benchmark.
    """

    source: str
    name: str
    unit: Literal["percent", "nats per token"]
    num_videos: int
    num_items: int
    values: dict[str, Value]
    differences: dict[str, Value]


class Evaluation(Frozen):
    """The content of `evaluation.json` that is shown."""

    model_config = ConfigDict(extra="ignore")

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def make_figures(
    source: str, items: Mapping[str, Mapping[str, Sequence[Item]]], *, seed: int
) -> list[Figure]:
    """The figures of several models that have items, from the items of each figure of each model."""
    names = [name for name, own in next(iter(items.values()), {}).items() if own]
    rows = {name: {model: own[name] for model, own in items.items()} for name in names}
    return [make_figure(source, name, own, seed=seed) for name, own in rows.items()]


def make_figure(source: str, name: str, items: Mapping[str, Iterable[Item]], *, seed: int) -> Figure:
    """The figure of several models, from their scores on the same items (at least one), in any order."""
    rows = {model: sorted(own) for model, own in items.items()}
    ids, videos = zip(*((row.id, row.video) for row in next(iter(rows.values()))), strict=True)
    assert all(tuple(row.id for row in own) == ids for own in rows.values()), "models have different items"
    scores = {model: np.array([row.value for row in own], np.float64) for model, own in rows.items()}
    gains = {m: scores[RESULT] - own for m, own in scores.items() if m != RESULT and RESULT in scores}
    draws, is_share = derive_seed(seed, "evaluation", "bootstrap"), MARGIN not in name
    has_intervals = len({*videos}) >= MIN_VIDEOS

    def summary(values: np.ndarray, *, is_gain: bool = False) -> Value:
        interval_of = share_interval if is_share and not is_gain else cluster_interval
        low, high = interval_of(values, videos, seed=draws) if has_intervals else (0.0, 0.0)
        return Value(
            value=round(float(values.mean()), 5),
            interval=(round(low, 5), round(high, 5)) if has_intervals else None,
            p_value=mcnemar(values) if is_share and is_gain and has_intervals else None,
        )

    return Figure(
        source=source,
        name=name,
        unit="percent" if is_share else "nats per token",
        num_videos=len({*videos}),
        num_items=len(ids),
        values={model: summary(own) for model, own in scores.items()},
        differences={model: summary(gain, is_gain=True) for model, gain in gains.items()},
    )


def mcnemar(gains: np.ndarray) -> float:
    """The p value of the exact McNemar test: are gains and losses [N] equally likely? Zeros do not count."""
    from scipy.stats import binomtest

    num_gains, num_losses = int((gains > 0).sum()), int((gains < 0).sum())
    changed = num_gains + num_losses
    return round(float(binomtest(num_gains, changed).pvalue), 5) if changed else 1.0


def read_evaluation(run: Path) -> Evaluation:
    """The evaluation of a run, empty before it. Raises ValueError for a file of another version of tempo."""
    if not (path := run / "evaluation.json").exists():
        return Evaluation(figures=())
    try:
        return parse_row(Evaluation, path.read_bytes(), str(path))
    except ValueError as error:
        marker = run / "done" / "evaluation.json"
        raise ValueError(
            f"{error}. Another version of tempo wrote it. Remove it and {marker}, and run `tempo run` again"
        ) from None


def figure_tables(evaluation: Evaluation) -> list[Table | str]:
    """An evaluation for a terminal: a short table for each source, then the notes."""
    tables = [
        figure_table(f"{source}, in percent", headings, cells)
        for source, (headings, *cells) in text_tables(evaluation.figures, is_short=True).items()
    ]
    return tables + [f"evaluation: {note}" for note in evaluation.notes]


def text_tables(figures: Iterable[Figure], *, is_short: bool = False) -> dict[str, list[list[str]]]:
    """Figures as rows of text (see `figure_rows`), by their source."""
    sources = groupby(figures, key=lambda row: row.source)
    return {source: figure_rows([*rows], is_short=is_short) for source, rows in sources}


def read_tables(run: Path) -> dict[str, list[list[str]]]:
    """The `text_tables` of a run; empty before its evaluation."""
    return text_tables(read_evaluation(run).figures)


def figure_rows(figures: Sequence[Figure], *, is_short: bool = False) -> list[list[str]]:
    """Figures of the same models as rows of text, headings first; short rows are only percentages."""
    models, others = [*figures[0].values], [*figures[0].differences]
    rows = [["", *([] if is_short else ["videos"]), *models, *(f"{RESULT} - {other}" for other in others)]]
    for figure in (figure for figure in figures if figure.unit == "percent" or not is_short):
        label = figure.name if figure.unit == "percent" else f"{figure.name} ({figure.unit})"
        cells = [] if is_short else [str(figure.num_videos)]
        cells += [text_of(figure, value, is_short=is_short) for value in figure.values.values()]
        gains = figure.differences.values()
        rows.append([label, *cells, *(text_of(figure, gain, sign="+", is_short=is_short) for gain in gains)])
    return rows


def text_of(figure: Figure, shown: Value, *, sign: str = "", is_short: bool = False) -> str:
    """A value, its p value and its interval; `sign` is "+" for differences.

    Short texts have no p value, and an interval only of differences, without decimals.
    """
    scale, digits = (100, 1) if figure.unit == "percent" else (1, 3)
    text = f"{scale * shown.value:{sign}.{digits}f}"
    if shown.p_value is not None and not is_short:
        text += f", p = {shown.p_value:.3f}" if shown.p_value >= 0.001 else ", p < 0.001"
    if not shown.interval or (is_short and not sign):
        return text
    form, space = (".0f", " ") if is_short else (f"{sign}.{digits}f", "\n")
    low, high = (f"{scale * bound:{form}}" for bound in shown.interval)
    return f"{text}{space}[{low}, {high}]"


def figure_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for a terminal, with names on the left and figures on the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for row in rows:
        table.add_row(*row)
    return table


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"
