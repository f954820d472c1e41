"""Tables, blocks of documents and plots of made-up results, and the published documents."""

import re
from pathlib import Path

import pytest
from made_up_study import ROOT, STUDY, make_results, make_run, make_runs

from research.study.__main__ import write
from research.study.output import (
    BLOCK,
    block,
    configured_tables,
    fill,
    read_results,
    write_documents,
    write_results,
)
from research.study.plots import draw

#: A result in a text: a decimal number, a percentage, points.
FIGURE = re.compile(r"\d\.\d|\d\s?%|\d\s?(?:percent|points?)\b")


@pytest.fixture(scope="module")
def results():
    return make_results(make_runs(seeds=(1, 2)))


def empty_block(name):
    return f"<!-- study:{name} -->\nold\n<!-- /study -->"


def test_every_row_that_has_run_is_in_one_group():
    results = make_results([*make_runs(seeds=(1,)), make_run("a_new_idea", 1, 0.8)])
    tables = configured_tables(results, "rows")
    assert sorted(line[0] for table in tables for line in table.lines) == sorted(results.rows)
    assert [line[0] for table in tables if table.title == "Other rows" for line in table.lines] == [
        "a_new_idea"
    ]
    assert "Not run: " in block(results, "rows", plots="")


def test_a_block_is_written_anew_and_the_rest_stays(results):
    text = f"# Before\n\n{empty_block('main')}\n\nbetween\n\n{empty_block('source')}\nafter"
    filled = fill(text, results, plots="study")
    assert "old" not in filled
    assert BLOCK.sub("", filled) == BLOCK.sub("", text)
    assert "`made up` at commit `0000000`, 2000-01-01, 2 minutes, seeds 1, 2." in filled
    assert fill(filled, results, plots="study") == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (empty_block("mian"), "study:mian is not a block; the blocks are source, claims"),
        (empty_block("plot-x"), "study:plot-x is not a block"),
        ("<!-- study:main -->\nold\n", "a block must start"),
        (f"<!-- study:main -->\n{empty_block('main')}", "a block must start"),
        ("<!-- study:main -->old<!-- /study -->", "a block must start"),
    ],
)
def test_a_wrong_block_is_refused_before_any_document_is_written(tmp_path, results, text, message):
    (tmp_path / "good.md").write_text(empty_block("main"))
    (tmp_path / "wrong.md").write_text(text)
    with pytest.raises(ValueError, match=f"wrong.md: {message}"):
        write_documents(results, [tmp_path / "good.md", tmp_path / "wrong.md"], plots=tmp_path / "plots")
    assert (tmp_path / "good.md").read_text() == empty_block("main")


def test_results_and_documents_are_written_and_read(tmp_path, results):
    (tmp_path / "docs").mkdir()
    documents = [tmp_path / "docs" / "study.md", tmp_path / "README.md"]
    for path in documents:
        path.write_text(empty_block("plot-main"))
    write_documents(results, documents, plots=tmp_path / "docs" / "study")
    assert "![main](study/main.svg)" in documents[0].read_text()
    assert "![main](docs/study/main.svg)" in documents[1].read_text()
    assert [path.name for path in (tmp_path / "docs" / "study").iterdir()] == ["main.svg"]
    write_results(results, tmp_path / "study.json")
    found = read_results(STUDY, tmp_path / "study.json")
    assert (found.runs, found.origin) == (results.runs, results.origin)


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": []}', "\udcff", None])
def test_a_file_without_valid_results_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "study.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"study\.json cannot be read"):
        read_results(STUDY, tmp_path / "study.json")


def test_equal_results_give_equal_bytes_of_a_plot(results):
    parts = {"main": "event order", "map": "400 steps", "probe": "rank correlation", "sft-start": "grad norm"}
    for name, text in parts.items():
        data = draw(results, name)
        assert text in data.decode()
        assert not re.search(r"Matplotlib v|dc:date", data.decode())
        assert draw(make_results(make_runs(seeds=(1, 2))), name) == data
        assert draw(make_results(make_runs(seeds=(1, 2), spread=0.02)), name) != data
        assert "not run" in draw(make_results([]), name).decode()


@pytest.mark.parametrize(
    "runs",
    [
        [],
        make_runs(seeds=(1,)),
        make_runs(seeds=(1, 2), levels={"base": 0.7, "random": 0.7, "method": 1.0}),
        [run | {"probe": None, "sft_start": None} for run in make_runs(seeds=(1, 2))],
        [make_run("method", seed, 0.8, num_steps=seed) for seed in (1, 2, 3)],
    ],
    ids=["nothing", "one seed", "few rows", "no probe, no SFT", "unequal steps"],
)
@pytest.mark.filterwarnings("ignore:No artists with labels")
def test_tables_and_plots_show_what_there_is(runs):
    results = make_results(runs)
    for name in STUDY.plots:
        assert draw(results, name).startswith(b"<?xml")
    for table in (table for name in STUDY.tables for table in configured_tables(results, name)):
        lines = table.markdown().replace("\\|", "").splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) == 2 + len(table.lines)


# The documents of this repository


def test_no_figure_of_the_study_is_written_by_hand():
    text = re.sub(r"```.*?```", "", BLOCK.sub("", (ROOT / "docs" / "study.md").read_text()), flags=re.DOTALL)
    assert len(FIGURE.findall("1.5, 90%, 90 %, 12 points, 3 percent")) == 5
    assert not FIGURE.findall(re.sub(r"`[^`\n]*`", "", text).replace("95 % interval", ""))


def test_published_documents_and_plots_are_what_the_command_writes(tmp_path):
    """`python -m research.study configs/study.toml --write docs/study.json docs/study.md README.md`."""
    (tmp_path / "docs").mkdir()
    documents = ("docs/study.md", "README.md")
    for path in ("docs/study.json", *documents):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    write(ROOT / "configs" / "study.toml", tmp_path / "docs/study.json", *(tmp_path / d for d in documents))
    drawn = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg")]
    assert len(drawn) == len(STUDY.plots)
    for path in ("docs/study.json", *documents, *drawn):
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), path
    assert Path(ROOT / "docs" / "study.md").read_text().count("| method |") >= 3
