"""The sentence and the chart agree with the figures."""

import pytest

from tempo.evaluation.figures import Item, make_figure
from tempo.report.results import headline, main_figures

HALF = [1.0, 0.0] * 20


def figure(name, **values):
    items = {m: [Item(f"{i:02d}", f"v{i}", v) for i, v in enumerate(own)] for m, own in values.items()}
    return make_figure("the benchmark", name, items, seed=0)


ORDER, WORDS = "conflicting, group score", "own words, group score"


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ([], "This run has no figure that compares the models."),
        (
            [figure("static", base=HALF, tempo=HALF), figure(ORDER, base=[0.0] * 40, tempo=[1.0] * 40)],
            "After training, the model picks the right order of two conflicting videos in 100 % of cases; "
            "before: 0 %.",
        ),
        (
            [figure(WORDS, base=HALF, sft_only=HALF, tempo=HALF[::-1])],
            "No clear change: after training, the model tells a held-out video from its rearrangement "
            "in 50 % of cases; before: 50 %.",
        ),
        (
            [figure("temporal questions", base=HALF, tempo=[0.0] * 40)],
            "Training made it worse: after training, the model answers 0 % of the questions about time "
            "correctly; before: 50 %.",
        ),
        ([figure(ORDER, base=[0.0], tempo=[1.0])], "Too few videos to tell: after training, the model picks"),
        ([figure(ORDER, base=HALF)], "Nothing was trained; the model picks the right order"),
    ],
)
def test_the_sentence_says_what_is_known(figures, sentence):
    main = next(iter(main_figures(figures)), None)
    assert headline(main)[0].replace("\u00a0", " ").startswith(sentence)


def test_the_interval_and_the_number_of_items_are_given():
    found = headline(figure(ORDER, base=[0.0] * 40, tempo=HALF))[1]
    assert found.startswith("The difference is +50.0 points, 95 % interval ")
    assert found.endswith("Measured on: the benchmark (videos: 40, items: 40).")


def test_the_page_opens_with_at_most_three_figures_of_a_benchmark_first():
    names = ("static", "event order", WORDS, ORDER, "temporal questions")
    found = main_figures([figure(name, base=HALF, tempo=HALF) for name in names])
    assert [row.name for row in found] == [ORDER, "temporal questions", "static"]
