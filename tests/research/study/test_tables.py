"""Tables of made-up studies: every figure in its cell, and words where there is none."""

import io

import pytest
from rich.console import Console
from study_material import LEVELS, made_up_row, made_up_rows, made_up_study

from research.study.cells import markdown, terminal
from research.study.sft_tables import sft_kinds_table, sft_start_table
from research.study.tables import (
    GROUPS,
    OTHER,
    TABLES,
    absent_rows,
    all_tables,
    correlation_table,
    grouped_rows,
    main_table,
    probe_table,
    transfer_table,
)


def row_of(cells, name):
    """One row of a table as heading -> cell."""
    (found,) = (row for row in cells.rows if row[0] == name)
    return dict(zip(cells.headings, found, strict=True))


@pytest.fixture(scope="module")
def study():
    return made_up_study(made_up_rows())


def exact_rows():
    """Two seeds of two rows, the method twelve points ahead."""
    levels = {"sft_only": (0.70, 0.72), "method": (0.82, 0.84)}
    return [made_up_row(name, seed, levels[name][seed - 1]) for name in levels for seed in (1, 2)]


def test_the_main_table_has_means_intervals_and_the_difference():
    cells = main_table(made_up_study(exact_rows()))
    shown = row_of(cells, "method")
    assert shown["temporal accuracy"] == "83.0 [70.3, 95.7]"
    assert shown["temporal, against SFT alone"] == "+12.0 [+11.4, +12.6]"
    assert shown["seeds"] == "2"
    assert row_of(cells, "sft_only")["temporal, against SFT alone"] == "-"


def test_rows_that_were_not_run_say_so():
    cells = main_table(made_up_study(exact_rows()))
    assert row_of(cells, "best")["temporal accuracy"] == "not run"
    assert [row[0] for row in cells.rows] == [*GROUPS["Main rows"]]
    assert "best" in absent_rows(made_up_study(exact_rows()))


def test_one_seed_has_no_interval_and_says_so():
    shown = row_of(main_table(made_up_study(made_up_rows(seeds=(3,)))), "method")
    assert shown["temporal accuracy"].endswith("(one seed)")
    assert shown["seeds"] == "1"


def test_without_sft_alone_there_is_nothing_to_compare_with():
    cells = main_table(made_up_study([made_up_row("method", 1, 0.8)]))
    assert row_of(cells, "method")["temporal, against SFT alone"] == "not run"


def test_every_row_of_the_study_stands_in_one_group():
    study = made_up_study([*made_up_rows(seeds=(1,)), made_up_row("a_new_idea", 1, 0.8)])
    groups = grouped_rows(study)
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted([*LEVELS, "a_new_idea"])
    assert groups[OTHER] == ["a_new_idea"]
    shown = [row[0] for cells in all_tables(study) for row in cells.rows]
    assert shown == named


def test_no_row_is_in_two_groups():
    names = [name for names in GROUPS.values() for name in names]
    assert len(names) == len({*names})


def test_the_other_architecture_is_compared_with_its_own_baselines():
    study = made_up_study(made_up_rows(spread=0.0))
    (cells,) = (cells for cells in all_tables(study) if cells.title == "Two architectures")
    shown = row_of(cells, "b_method")
    assert shown["temporal, against SFT alone"].startswith("+14.0")
    assert shown["against the method"] == "-"
    assert row_of(cells, "a_on_b")["against the method"].startswith("-7.0")


def test_a_row_without_a_probe_has_a_dash(study):
    cells = all_tables(study)[0]
    assert row_of(cells, "blind")["probe win rate"] == "-"
    assert "blind" not in [row[0] for row in probe_table(study).rows]


def test_the_probe_by_kind(study):
    shown = row_of(probe_table(study), "method")
    assert shown["frozen"] == "50.0"
    assert shown["win rate"].startswith(shown["reverse"])


def test_shares_and_correlations():
    study = made_up_study(made_up_rows(spread=0.0))
    assert row_of(transfer_table(study), "a_on_b")["temporal accuracy"].startswith("50.0")
    assert correlation_table(study).rows[0][2] == "1.00 [1.00, 1.00] n = 28"
    few = made_up_study(exact_rows())
    assert row_of(transfer_table(few), "a_on_b")["temporal accuracy"] == "not run"
    assert correlation_table(few).rows[0][2] == "- n = 2"


def test_the_start_of_sft():
    shown = sft_start_table(made_up_study(exact_rows())).rows
    # 1 - accuracy / 2 at first, and 0.02 less at each of ten steps.
    assert [cell.split()[0] for cell in shown[0][1:]] == ["0.555", "0.495", "-0.060"]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "rows", [[], exact_rows(), made_up_rows(seeds=(1,))], ids=["none", "few", "one seed"]
)
def test_every_table_copes_with_what_was_not_run(name, rows):
    cells = TABLES[name](made_up_study(rows))
    assert all(len(row) == len(cells.headings) for row in cells.rows)
    console = Console(file=io.StringIO(), width=300)
    console.print(terminal(cells))
    assert markdown(cells)


def test_markdown_keeps_its_columns_whatever_a_cell_says(study):
    lines = markdown(all_tables(study)[0]).splitlines()
    assert "made up \\| method" in "\n".join(lines)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_an_empty_table_says_that_nothing_was_run():
    assert markdown(TABLES["probe"](made_up_study([]))) == "Nothing yet: not run."


def test_what_sft_takes_is_told_for_every_kind_of_it():
    cells = sft_kinds_table(made_up_study(made_up_rows(spread=0, sft_full=0.7, method_sft_full=0.8)))
    assert row_of(cells, "as in the method")["seeds"] == "5"
    full = row_of(cells, "of the weights themselves")
    # Made up: order is 0.5 + 5/12 (2 temporal - 1); the method before SFT has a temporal accuracy of 0.89.
    assert full["order, the method"].startswith("75.0 [")
    assert full["what SFT took, in points"].startswith("-7.5 [")
    absent = row_of(sft_kinds_table(made_up_study(exact_rows())), "four epochs")
    assert (absent["order, the method"], absent["seeds"]) == ("not run", "-")
