"""What people read of a study: the generated blocks and plots of documents, and a page of its own.

`python -m research.study.documents docs/study.json docs/study.md README.md` writes between
`<!-- study:NAME -->` and `<!-- /study -->` what the study says under that name, and the plots into
`docs/study/`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.study.cells import markdown
from research.study.judging import FAILS, HOLDS
from research.study.plots import PLOTS, plot
from research.study.summary import read_study, summarize_again, write_study
from research.study.tables import TABLES, absent_rows, all_tables
from tempo.core.files import write_text

Study = Mapping[str, Any]

BLOCK = re.compile(r"(<!-- study:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /study -->)", re.DOTALL)
#: Begins or ends a block; each must belong to a whole one.
MARK = re.compile(r"<!-- /?study.*?-->")

SOURCES = {
    "paper": "Claims of the paper",
    "aim": "Aims of this project",
    "why": "Why they come out so",
    "world": "Is the world sound?",
}
#: Sections of the page after the claims: title, plot, tables.
SECTIONS = (
    ("Main rows", "main", ("main", "differences")),
    ("Order after every phase", "phases", ()),
    ("The probe", "probe", ("probe", "correlation")),
    ("SFT: how it starts, and what it does to order", "sft-start", ("sft-start", "sft-kinds")),
    ("Other pairs, fewer pairs", "data", ("transfer",)),
)


def source_text(study: Study) -> str:
    """Where the figures come from: command, commit, date, minutes, seeds."""
    seeds = ", ".join(map(str, study["seeds"]))
    commit = f" at commit `{study['commit']}`" if study["commit"] else ""
    minutes = f"{study.get('minutes', 0):.0f} minutes"
    return f"`{study['command']}`{commit}, {study['date']}, {minutes}, seeds {seeds}."


def block(study: Study, name: str, *, plots: str) -> str:
    """The Markdown of one block; `plots` is the folder of the plots as the document sees it.

    Raises ValueError for a name that no block has.
    """
    if name == "source":
        return source_text(study)
    if name == "rows":
        parts = [f"**{cells.title}**\n\n{markdown(cells)}" for cells in all_tables(study)]
        absent = absent_rows(study)
        return "\n\n".join([*parts, *([f"Not run: {', '.join(absent)}."] if absent else [])])
    if name.startswith("plot-") and (drawn := name.removeprefix("plot-")) in PLOTS:
        return f"![{drawn.replace('-', ' ')}]({plots}/{drawn}.svg)"
    if name in TABLES:
        return markdown(TABLES[name](study))
    known = ["source", "rows", *TABLES, *(f"plot-{drawn}" for drawn in PLOTS)]
    raise ValueError(f"study:{name} is no block; there are {', '.join(known)}")


def fill(text: str, study: Study, *, plots: str) -> str:
    """The document with every block written anew; raises ValueError for a mark that belongs to no block."""
    if len(MARK.findall(text)) != 2 * len(BLOCK.findall(text)):
        raise ValueError("a block must be `<!-- study:NAME -->`, a line end, ... and `<!-- /study -->`")

    def written(match: re.Match[str]) -> str:
        return f"{match[1]}{block(study, match['name'], plots=plots)}\n{match[4]}"

    return BLOCK.sub(written, text)


def without_blocks(text: str) -> str:
    """What people wrote themselves: the document without what lies between the marks."""
    return BLOCK.sub("", text)


def plot_folder(study_path: Path) -> Path:
    """Where the plots of `docs/study.json` lie: `docs/study/`."""
    return study_path.with_suffix("")


def write_documents(study_path: Path, documents: Sequence[Path]) -> None:
    """Fills the documents from `study.json` and draws the plots they show; what lies outside of blocks stays.

    What the study sums up is made anew from its rows first, and written back: an older version knew less.
    """
    study, folder = summarize_again(read_study(study_path)), plot_folder(study_path)
    filled = {}
    for path in documents:
        seen = Path(os.path.relpath(folder, path.parent)).as_posix()
        try:
            filled[path] = fill(path.read_text(), study, plots=seen)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    write_study(study, study_path)
    for path, text in filled.items():
        write_text(path, text)
    for name in PLOTS:
        if any(f"<!-- study:plot-{name} -->" in text for text in filled.values()):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.svg").write_bytes(plot(study, name))


def write_page(study: Study, directory: Path) -> Path:
    """Writes `study.html`, one file that loads nothing, and returns its path."""
    from jinja2 import Environment, PackageLoader

    # Rows say in the user's words what they are.
    environment = Environment(loader=PackageLoader("tempo.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("study.html.jinja").render(
        source=source_text(study).replace("`", ""),
        claims=_claims(study),
        sections=_sections(study),
        absent=absent_rows(study),
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "study.html"
    write_text(path, page)
    return path


def _claims(study: Study) -> dict[str, list[dict[str, str]]]:
    """Claims by where they come from, each with the style of its verdict."""
    styles = {HOLDS: "holds", FAILS: "fails"}
    return {
        title: [
            {**claim, "style": styles.get(claim["verdict"], "open")}
            for claim in study["claims"]
            if claim["source"] == source
        ]
        for source, title in SOURCES.items()
    }


def _sections(study: Study) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for title, drawn, tables in SECTIONS:
        shown.append(
            {"title": title, "plot": _inline(study, drawn), "tables": [TABLES[n](study) for n in tables]}
        )
    return [*shown, {"title": "All rows", "plot": "", "tables": all_tables(study)}]


def _inline(study: Study, name: str) -> str:
    """A plot as an element of a page."""
    text = plot(study, name).decode()
    return text[text.index("<svg") :]


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        print("usage: python -m research.study.documents STUDY.json DOCUMENT.md ...", file=sys.stderr)
        return 2
    try:
        write_documents(Path(arguments[0]), [Path(name) for name in arguments[1:]])
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
