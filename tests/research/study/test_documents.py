"""Documents and the page: what `study.json` says, and nothing else."""

import re
from pathlib import Path

import pytest
from study_material import made_up_row, made_up_rows, made_up_study

from research.study.cells import markdown
from research.study.documents import (
    fill,
    main,
    plot_folder,
    source_text,
    without_blocks,
    write_documents,
    write_page,
)
from research.study.plots import PLOTS, plot
from research.study.summary import read_study, summarize_again, write_study
from research.study.tables import main_table

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs" / "study.json"
DOCUMENT = ROOT / "docs" / "study.md"
#: A result: a decimal number, a percentage, points.
FIGURE = re.compile(r"\d\.\d|\d\s?%|\d\s?(?:percent|points?)\b")
needs_study = pytest.mark.skipif(
    not STUDY.exists(), reason="docs/study.json is not there yet: no study was run"
)


@pytest.fixture(scope="module")
def study():
    return made_up_study(made_up_rows(seeds=(1, 2)))


def block(name, body="old\n"):
    return f"<!-- study:{name} -->\n{body}<!-- /study -->"


# Blocks


def test_a_block_is_written_anew_and_the_rest_stays(study):
    text = f"# Before\n\n{block('main')}\n\nbetween\n\n{block('source')}\nafter"
    filled = fill(text, study, plots="study")
    assert filled == text.replace("old\n", f"{markdown(main_table(study))}\n", 1).replace(
        "old\n", f"{source_text(study)}\n"
    )
    assert fill(filled, study, plots="study") == filled
    assert without_blocks(filled) == "# Before\n\n\n\nbetween\n\n\nafter"


def test_where_figures_come_from(study):
    assert source_text(study) == "`made up` at commit `0000000`, 2000-01-01, 2 minutes, seeds 1, 2."
    assert source_text({**study, "commit": ""}) == "`made up`, 2000-01-01, 2 minutes, seeds 1, 2."


def test_an_empty_block_is_filled(study):
    assert "| row |" in fill(block("main", body=""), study, plots="study")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block("mian"), "study:mian is no block; there are source, rows, main"),
        (block("plot-x"), "study:plot-x is no block"),
        ("<!-- study:main -->\nold\n", "a block must be"),
        (f"{block('main')}\n<!-- /study -->", "a block must be"),
        (f"<!-- study:main -->\n{block('main')}", "a block must be"),
        ("<!-- study:main -->old<!-- /study -->", "a block must be"),
    ],
)
def test_a_mark_that_is_no_block_is_refused(study, text, message):
    with pytest.raises(ValueError, match=message):
        fill(text, study, plots="study")


def test_all_rows_are_listed_and_those_not_run_are_named():
    text = fill(block("rows"), made_up_study([made_up_row("mixed", 1, 0.8)]), plots="study")
    assert "**Curriculum**" in text
    assert "**Number of pairs**" not in text
    assert re.search(r"Not run: .*hard_easy.*\.", text)


# The command


@pytest.fixture
def folder(tmp_path, study):
    """A repository with a study, a document beside it and a README above it."""
    (tmp_path / "docs").mkdir()
    write_study(study, tmp_path / "docs" / "study.json")
    for path in (tmp_path / "docs" / "study.md", tmp_path / "README.md"):
        path.write_text(block("plot-phases"))
    return tmp_path


def test_the_command_fills_documents_and_draws_the_plots_they_show(folder, study):
    assert main([str(folder / "docs" / "study.json"), *map(str, folder.rglob("*.md"))]) == 0
    assert "![phases](study/phases.svg)" in (folder / "docs" / "study.md").read_text()
    assert "![phases](docs/study/phases.svg)" in (folder / "README.md").read_text()
    drawn = {path.stem: path.read_bytes() for path in (folder / "docs" / "study").iterdir()}
    assert drawn == {"phases": plot(study, "phases")}


def test_a_document_with_a_bad_mark_stops_it_before_anything_is_written(folder, capsys):
    (folder / "README.md").write_text(block("nothing"))
    paths = [folder / "docs" / "study.json", folder / "docs" / "study.md", folder / "README.md"]
    assert main([*map(str, paths)]) == 2
    assert "README.md: study:nothing is no block" in capsys.readouterr().err
    assert "old" in (folder / "docs" / "study.md").read_text()
    assert not (folder / "docs" / "study").exists()


def test_the_command_says_what_it_needs(tmp_path, capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert main([str(tmp_path / "no.json"), "x.md"]) == 2
    assert "no.json cannot be read" in capsys.readouterr().err


# The page


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return write_page(study, tmp_path_factory.mktemp("page") / "out").read_text()


def test_the_page_is_one_file_that_loads_nothing(page):
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == len(PLOTS)
    # Only marks within a plot are referred to.
    assert {source[:1] for source in re.findall(r'(?:src|href)="([^"]*)"', page)} == {"#"}
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)


def test_the_page_has_every_claim_with_its_verdict_and_every_row(study, page):
    for claim in study["claims"]:
        assert f"<b>{claim['verdict']}</b>: {claim['claim'].replace(chr(39), '&#39;')}" in page
    for row in study["rows"]:
        assert f"<td>{row['row']}</td>" in page


def test_words_of_the_configuration_are_no_markup(tmp_path):
    row = made_up_row("method", 1, 0.8) | {"says": "<script>alert(1)</script>"}
    page = write_page(made_up_study([row]), tmp_path).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_study_that_has_barely_begun_has_a_page_too(tmp_path):
    page = write_page(made_up_study([]), tmp_path).read_text()
    assert "<b>cannot be told</b>" in page
    assert "Not run: blind, base" in page


# The documents of this repository


def written_by_people(text):
    """The text outside of generated blocks and code, less the one percentage that says what intervals are."""
    text = re.sub(r"```.*?```", "", without_blocks(text), flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text).replace("95 % interval", "")


@pytest.mark.parametrize("text", ["1.5", "90%", "90 %", "12 points", "a gain of 1 point.", "3 percent"])
def test_a_figure_outside_of_blocks_is_found(text):
    assert FIGURE.search(written_by_people(text))
    assert not FIGURE.search(
        written_by_people(f"```\n{text}\n```\n`{text}`\n{block('main', text + chr(10))}")
    )


def test_no_figure_of_the_study_is_written_by_hand():
    assert not FIGURE.findall(written_by_people(DOCUMENT.read_text()))


def test_every_block_of_the_documents_can_be_written(study):
    for path in (DOCUMENT, ROOT / "README.md"):
        filled = fill(path.read_text(), study, plots="study")
        assert without_blocks(filled) == without_blocks(path.read_text())
        assert "<!-- study:main -->" in filled
        assert "Not run yet." not in filled


@needs_study
@pytest.mark.parametrize(
    ("name", "documents", "plots"),
    [("study", ("docs/study.md", "README.md"), tuple(PLOTS)), ("study_fresh", ("docs/study_fresh.md",), ())],
)
def test_documents_and_plots_are_what_the_study_gives(tmp_path, name, documents, plots):
    """`python -m research.study.documents docs/study.json docs/study.md README.md` would change nothing."""
    written = ROOT / "docs" / f"{name}.json"
    copy = tmp_path / "docs" / f"{name}.json"
    copy.parent.mkdir()
    copy.write_bytes(written.read_bytes())
    paths = {ROOT / document: tmp_path / document for document in documents}
    for path, other in paths.items():
        other.write_text(path.read_text())
    write_documents(copy, [*paths.values()])
    for path, other in paths.items():
        assert path.read_text() == other.read_text(), path
    assert plot_folder(copy).exists() == bool(plots)
    for plot_name in plots:
        drawn = plot_folder(written) / f"{plot_name}.svg"
        assert drawn.read_bytes() == (plot_folder(copy) / f"{plot_name}.svg").read_bytes(), drawn


@needs_study
@pytest.mark.parametrize("name", ["study", "study_fresh"])
def test_what_the_study_sums_up_follows_from_its_rows(name):
    study = read_study(ROOT / "docs" / f"{name}.json")
    again = summarize_again(study)
    assert [claim["verdict"] for claim in again["claims"]] == [claim["verdict"] for claim in study["claims"]]
    for name in ("means", "differences", "shares"):
        assert len(again[name]) == len(study[name])
        for made, kept in zip(again[name], study[name], strict=True):
            assert made["mean"] == pytest.approx(kept["mean"], abs=2e-5)
            assert made["interval"] == pytest.approx(kept["interval"], abs=2e-5)
