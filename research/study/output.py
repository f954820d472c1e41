"""Tables of a study, and the generated blocks of Markdown documents.

A block is enclosed by `<!-- study:NAME -->` and `<!-- /study -->`. Its content depends only on the runs in
`study.json`, and on the claims, tables and plots of the study's configuration.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from research.study import analysis
from research.study.analysis import NOT_RUN, Results
from research.study.claims import compare, judge
from research.study.config import StudyConfig
from research.study.plots import draw
from tempo.core.files import write_text

BLOCK = re.compile(r"(<!-- study:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /study -->)", re.DOTALL)
#: The start or end of a block.
MARK = re.compile(r"<!-- /?study.*?-->")
#: Fields of a `study.json` about its origin, in addition to the runs.
ORIGIN = ("command", "commit", "date", "minutes", "seeds")


class Table(NamedTuple):
    """A table of text: a title, headings, and lines with one cell per heading."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table in GitHub's Markdown, without its title."""
        # A bar or a line break within a cell would end it.
        cells = [[" ".join(c.replace("|", "\\|").split()) for c in ln] for ln in (self.headings, *self.lines)]
        cells.insert(1, ["---"] * len(self.headings))
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def configured_tables(results: Results, name: str) -> list[Table]:
    """The tables configured under a name: one, or one for each group with a finished row.

    Tables of groups also describe their rows; rows outside all groups follow as "Other rows".
    """
    config, study = results.study.tables[name], results.study
    columns = config.columns
    headings = [*map(_heading, columns), "seeds"]
    if not config.groups:
        rows = config.rows or study.rows
        return [Table(name, ["row", *headings], [[row, *_cells(results, row, columns)] for row in rows])]
    grouped = {row for rows in config.groups.values() for row in rows}
    groups = config.groups | {"Other rows": tuple(row for row in results.rows if row not in grouped)}
    tables = []
    for title, rows in groups.items():
        known = {row: study.rows[row].description if row in study.rows else "" for row in rows}
        lines = [
            [row, text, *_cells(results, row, columns)] for row, text in known.items() if row in results.rows
        ]
        tables += [Table(title, ["row", "what it is", *headings], lines)] if lines else []
    return tables


def _parts(column: str) -> tuple[str, str, str]:
    first, _, against = column.partition(" - ")
    metric, _, whole = first.partition(" / ")
    return metric, whole, against


def _heading(column: str) -> str:
    metric, whole, against = _parts(column)
    name = analysis.label(metric)
    if whole:
        return f"{name}, % of the gain of {whole} over {against}"
    return f"{name}, against {against}" if against else name


def _cells(results: Results, row: str, columns: Sequence[str]) -> list[str]:
    if row not in results.rows:
        return [NOT_RUN, *[""] * len(columns)]
    num_seeds = sum(run["row"] == row for run in results.runs)
    return [*(_cell(results, row, column) for column in columns), str(num_seeds)]


def _cell(results: Results, row: str, column: str) -> str:
    metric, whole, against = _parts(column)
    whole, against = results.baseline(row, whole), results.baseline(row, against)
    if row == against:
        return "-"
    if whole:
        kept = analysis.gain_kept(results, row, whole, against, metric)
        return kept.text() if kept else "-"
    if against:
        found = analysis.difference(results, row, against, metric)
    else:
        found = analysis.mean(results, row, metric)
    return found.text(metric, signed=bool(against)) if found else "-"


def claims_table(results: Results) -> Table:
    """Every claim with its verdict and the figures that decide it."""
    lines = [[v.claim.source, v.claim.text, f"**{v.outcome}**", v.reason] for v in judge(results)]
    return Table("claims", ["from", "claim", "verdict", "figures"], lines)


def map_table(results: Results) -> Table:
    """Every comparison of the map: differences with 95 % intervals, and what the corrected interval shows."""
    lines = []
    for one in compare(results):
        both = analysis.difference(results, *one.rows, "group_score")
        cells = [found.text(signed=True) if found else NOT_RUN for found in (one.found, one.corrected, both)]
        rows = f"`{one.rows[0]}` minus `{one.rows[1]}`"
        lines.append([one.question, one.condition, rows, cells[0], cells[1], f"**{one.outcome}**", cells[2]])
    temporal, both_right = analysis.label("temporal"), analysis.label("group_score")
    headings = ["choice", "condition", "rows", temporal, "corrected interval", "verdict", both_right]
    return Table("map", headings, lines)


def correlation_table(results: Results) -> Table:
    """Spearman's rho of the probe with accuracy: over rows, single runs, and rows trained with DPO."""
    lines = []
    for probe, target in ((p, t) for p in ("win_rate", "margin") for t in ("temporal", "order")):
        find = partial(analysis.correlation, results, probe, target)
        found = find(), find(single_runs=True), find(only_dpo=True)
        cells = [f"{one.text('rho')} n = {one.num_seeds}" if one else "-" for one in found]
        lines.append([analysis.label(probe), analysis.label(target), *cells])
    headings = ["probe", "accuracy", "rows", "single runs", "rows trained with DPO"]
    return Table("correlation", headings, lines)


def block(results: Results, name: str, *, plots: str) -> str:
    """The Markdown of one block; `plots` is the folder of plots, relative to the document.

    Raises ValueError for an unknown name.
    """
    study, origin = results.study, results.origin
    if name == "source":
        commit = f" at commit `{origin['commit']}`" if origin["commit"] else ""
        minutes, seeds = f"{origin['minutes']:.0f} minutes", ", ".join(map(str, origin["seeds"]))
        return f"`{origin['command']}`{commit}, {origin['date']}, {minutes}, seeds {seeds}."
    if name == "claims":
        return claims_table(results).markdown()
    if name == "correlation":
        return correlation_table(results).markdown()
    if name == "map":
        return map_table(results).markdown()
    if name in study.tables:
        tables = configured_tables(results, name)
        if not study.tables[name].groups:
            return tables[0].markdown()
        absent = ", ".join(row for row in study.rows if row not in results.rows)
        parts = [f"**{table.title}**\n\n{table.markdown()}" for table in tables]
        return "\n\n".join([*parts, *([f"Not run: {absent}."] if absent else [])])
    drawn = name.removeprefix("plot-")
    if drawn != name and drawn in study.plots:
        return f"![{drawn.replace('-', ' ')}]({plots}/{drawn}.svg)"
    known = ", ".join(
        ["source", "claims", "correlation", "map", *study.tables, *(f"plot-{p}" for p in study.plots)]
    )
    raise ValueError(f"study:{name} is not a block; the blocks are {known}")


def fill(text: str, results: Results, *, plots: str) -> str:
    """The document with every block regenerated; raises ValueError for a mark without its counterpart."""
    if len(MARK.findall(text)) != 2 * len(BLOCK.findall(text)):
        raise ValueError(
            "a block must start with `<!-- study:NAME -->` on a line and end with `<!-- /study -->`"
        )
    return BLOCK.sub(lambda m: f"{m[1]}{block(results, m['name'], plots=plots)}\n{m[4]}", text)


def write_documents(results: Results, documents: Sequence[Path], *, plots: Path) -> None:
    """Fills the blocks of the documents, and draws the plots that they show into the folder `plots`.

    Text outside blocks stays as it is. Raises ValueError for an invalid block, before anything is written.
    """
    filled = {}
    for path in documents:
        folder = Path(os.path.relpath(plots, path.parent)).as_posix()
        try:
            filled[path] = fill(path.read_text(encoding="utf-8"), results, plots=folder)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    for path, text in filled.items():
        write_text(path, text)
    for name in results.study.plots:
        if any(f"<!-- study:plot-{name} -->" in text for text in filled.values()):
            plots.mkdir(parents=True, exist_ok=True)
            (plots / f"{name}.svg").write_bytes(draw(results, name))


def write_report(results: Results, path: Path) -> None:
    """Writes a Markdown document with all tables and plots; plots go into a folder next to it."""
    names = [
        "source",
        *results.study.tables,
        "claims",
        "correlation",
        *(["map"] if results.study.map else []),
    ]
    names += [f"plot-{name}" for name in results.study.plots]
    parts = [f"## {name}\n\n<!-- study:{name} -->\n<!-- /study -->\n" for name in names]
    write_text(path, "\n".join(["# Results\n", *parts]))
    write_documents(results, [path], plots=path.with_suffix(""))


def write_results(results: Results, path: Path) -> None:
    """Writes `study.json`, one run per line, so that two studies can be compared line by line."""
    runs = ",\n".join("  " + json.dumps(run, ensure_ascii=False) for run in results.runs)
    origin = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in results.origin.items())
    write_text(path, f'{{\n{origin}"rows": [\n{runs}\n]\n}}\n')


def read_results(study: StudyConfig, path: Path) -> Results:
    """The results in a `study.json`; raises ValueError that names an invalid file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        results = Results(study, data["rows"], {key: data[key] for key in ORIGIN})
        results.values  # noqa: B018
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as the results of a study: {error!r}. Run the study again"
        ) from None
    return results
