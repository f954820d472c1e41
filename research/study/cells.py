"""A table before it is shown: as Markdown, or on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from research.study.words import NOT_RUN


class Cells(NamedTuple):
    """A table: its title, its headings, and its rows of as many cells."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(cells: Cells) -> str:
    """The table as GitHub shows it, without its title."""
    if not cells.rows:
        return f"Nothing yet: {NOT_RUN}."
    lines = [cells.headings, ["---"] * len(cells.headings), *cells.rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(cell: str) -> str:
    """A cell that does not end its table: bars and line breaks in descriptions would."""
    return " ".join(cell.replace("|", "\\|").split())


def terminal(cells: Cells) -> Table:
    """The table for a terminal."""
    table = Table(title=cells.title)
    for index, heading in enumerate(cells.headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in cells.rows:
        table.add_row(*(cell.replace("**", "") for cell in row))
    return table
