"""Plots of made-up studies: they draw what is there, say what is not, and are the same to the byte."""

import re

import pytest
from study_material import made_up_row, made_up_rows, made_up_study

from research.study.plots import PLOTS, plot

#: What only a plot with something to show has.
SHOWN = {
    "main": "event order",
    "phases": "then SFT",
    "data": "1/8",
    "probe": "rank",
    "sft-start": "grad norm",
}


@pytest.fixture(scope="module")
def study():
    return made_up_study(made_up_rows(seeds=(1, 2)))


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_drawn_and_equal_studies_give_equal_bytes(study, name):
    data = plot(study, name)
    assert SHOWN[name] in data.decode()
    assert "not run" not in data.decode()
    assert plot(made_up_study(made_up_rows(seeds=(1, 2))), name) == data
    assert plot(made_up_study(made_up_rows(seeds=(1, 2), spread=0.02)), name) != data


@pytest.mark.parametrize("name", PLOTS)
def test_no_plot_says_when_or_by_which_version_it_was_drawn(study, name):
    assert not re.search(r"Matplotlib v|dc:date", plot(study, name).decode())


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_of_nothing_says_that_it_was_not_run(name):
    assert "not run" in plot(made_up_study([]), name).decode()


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize(
    "rows",
    [
        made_up_rows(seeds=(1,)),
        made_up_rows(seeds=(1, 2), spread=0.0),
        made_up_rows(seeds=(1, 2), levels={"base": 0.7, "dpo_16": 0.7, "method": 1.0}),
        [row | {"probe": None, "sft_start": None} for row in made_up_rows(seeds=(1, 2))],
        [made_up_row("method", seed, 0.8, steps=seed) for seed in (1, 2, 3)],
    ],
    ids=["one seed", "identical", "few rows", "no probe, no SFT", "unequal steps"],
)
def test_plots_cope_with_what_is_missing(name, rows):
    assert plot(made_up_study(rows), name, "png").startswith(b"\x89PNG")


def test_the_curve_over_data_needs_two_points():
    assert "not run" in plot(made_up_study([made_up_row("method", 1, 0.8)]), "data").decode()
