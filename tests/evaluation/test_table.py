"""The table of accuracies as the terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tempo.core.records import Outcome
from tempo.evaluation.benchmark import summarize
from tempo.evaluation.table import accuracy_table, percent


def shown(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def cells(text, name):
    """The cells of the row that begins with this name."""
    (row,) = (line for line in text.splitlines() if line.strip(" │┃").startswith(name))
    return [cell.strip() for cell in row.strip("│┃ ").replace("┃", "│").split("│")]


def outcomes(aspect, num_right, num_wrong, group=""):
    return [
        Outcome(
            id=f"{aspect}{i}",
            aspect=aspect,
            format="yes_no",
            answer=0,
            log_likelihoods=(0.0, -1.0) if i < num_right else (-1.0, 0.0),
            group=group,
        )
        for i in range(num_right + num_wrong)
    ]


@pytest.mark.parametrize(
    ("share", "expected"), [(None, "-"), (0.0, "0.0"), (0.1234, "12.3"), (0.5, "50.0"), (1.0, "100.0")]
)
def test_percent(share, expected):
    assert percent(share) == expected


def test_every_figure_stands_in_its_row():
    base = summarize(
        [*outcomes("direction", 1, 1), *outcomes("event_order", 0, 2), *outcomes("static", 3, 1)]
    )
    tempo = summarize([*outcomes("direction", 2, 0), *outcomes("conflicting", 1, 1, "g")])
    text = shown(accuracy_table({"models": {"base": base, "tempo": tempo}}))
    rows = {
        "temporal": ["25.0", "75.0"],
        "95 % interval": ["4.6 - 69.9", "30.1 - 95.4"],
        "samples": ["4", "4"],
        "direction": ["50.0", "100.0"],
        "event order": ["0.0", "-"],
        "conflicting, one by one": ["-", "50.0"],
        "conflicting, text score": ["-", "0.0"],
        "conflicting, group score": ["-", "0.0"],
        "static": ["75.0", "-"],
    }
    for name, expected in rows.items():
        assert cells(text, name) == [name, *expected]


def test_it_fits_a_narrow_terminal():
    models = {name: summarize(outcomes("attribute_change", 1, 0)) for name in ("base", "sft_only", "tempo")}
    console = Console(file=io.StringIO(), width=80)
    console.print(accuracy_table({"models": models}))
    assert "…" not in console.file.getvalue()
    assert "sft_only" in console.file.getvalue()


def test_aspect_that_one_model_was_not_asked_is_a_dash():
    models = {"one": summarize(outcomes("speed", 1, 0)), "two": summarize(outcomes("action", 1, 0))}
    text = shown(accuracy_table({"models": models}))
    assert cells(text, "action") == ["action", "-", "100.0"]
    assert cells(text, "speed") == ["speed", "100.0", "-"]


def test_models_stay_in_their_order():
    models = {name: summarize(outcomes("speed", 1, 0)) for name in ("zebra", "ant", "tempo")}
    text = shown(accuracy_table({"models": models}))
    assert text.index(" zebra ") < text.index(" ant ") < text.index(" tempo ")


def test_without_models_the_note_says_why():
    assert "set evaluation.benchmark" in accuracy_table({"models": {}, "note": "set evaluation.benchmark"})
    assert "nothing was evaluated" in accuracy_table({"models": {}})
