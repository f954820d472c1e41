"""The table of accuracies as the terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tempo.evaluation.benchmark import summarize
from tempo.evaluation.table import accuracy_table, percent
from tempo.records import Outcome


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


def test_every_figure_stands_in_its_column():
    base = summarize(
        [*outcomes("direction", 1, 1), *outcomes("event_order", 0, 2), *outcomes("static", 3, 1)]
    )
    tempo = summarize([*outcomes("direction", 2, 0, "g"), *outcomes("event_order", 1, 1)])
    text = shown(accuracy_table({"models": {"base": base, "tempo": tempo}}))
    heading = [
        "model",
        "temporal",
        "95 % interval",
        "samples",
        "static",
        "groups",
        "direction",
        "event order",
    ]
    assert cells(text, "model") == heading
    assert cells(text, "base") == ["base", "25.0", "4.6 - 69.9", "4", "75.0", "-", "50.0", "0.0"]
    assert cells(text, "tempo") == ["tempo", "75.0", "30.1 - 95.4", "4", "-", "100.0", "100.0", "50.0"]


def test_aspect_that_one_model_was_not_asked_is_a_dash():
    models = {"one": summarize(outcomes("speed", 1, 0)), "two": summarize(outcomes("action", 1, 0))}
    text = shown(accuracy_table({"models": models}))
    assert cells(text, "one")[-2:] == ["-", "100.0"]
    assert cells(text, "two")[-2:] == ["100.0", "-"]


def test_models_stay_in_their_order():
    models = {name: summarize(outcomes("speed", 1, 0)) for name in ("zebra", "ant", "tempo")}
    text = shown(accuracy_table({"models": models}))
    assert text.index(" zebra ") < text.index(" ant ") < text.index(" tempo ")


def test_without_models_the_note_says_why():
    assert "set evaluation.benchmark" in accuracy_table({"models": {}, "note": "set evaluation.benchmark"})
    assert "nothing was evaluated" in accuracy_table({"models": {}})
