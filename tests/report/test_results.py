"""The sentence and the chart agree with the figures."""

import pytest

from tempo.evaluation.figures import Item, make_figure
from tempo.report.results import headline, main_figures

HALF = [1.0, 0.0] * 20
ORDER = "conflicting, group score"


def figure(name, base, tempo):
    models = {"base": base} | ({"tempo": tempo} if tempo else {})
    items = {m: [Item(f"{i:02d}", f"v{i}", v) for i, v in enumerate(own)] for m, own in models.items()}
    return make_figure("the benchmark", name, items, seed=0)


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ([], "This run has no figure that compares the models."),
        (
            [(ORDER, [0.0] * 40, [1.0] * 40), ("static", HALF, HALF)],
            "After training, {} in 100 %; before: 0 %.",
        ),
        ([(ORDER, HALF, HALF[::-1])], "No clear change: after training, {} in 50 %; before: 50 %."),
        ([(ORDER, HALF, [0.0] * 40)], "Training made it worse: after training, {} in 0 %; before: 50 %."),
        ([(ORDER, [0.0], [1.0])], "Too few videos to tell: after training, {} in 100 %; before: 0 %."),
        ([(ORDER, HALF, None)], "Nothing was trained; {} in 50 %."),
    ],
)
def test_the_sentence_says_what_is_known(figures, sentence):
    main = main_figures([figure(*row) for row in figures])
    found = headline(main[0] if main else None)[0].replace("\u00a0", " ").replace(" of cases", "")
    assert found == sentence.format("the model picks the right order of two conflicting videos")


def test_the_evidence_has_the_interval_and_the_number_of_items():
    found = headline(figure(ORDER, [0.0] * 40, HALF))[1]
    assert found.startswith("The difference is +50.0 points, 95 % interval ")
    assert found.endswith("Measured on: the benchmark (videos: 40, items: 40).")


def test_the_page_opens_with_at_most_three_figures_of_a_benchmark_first():
    names = ("static", "event order", "own words, group score", ORDER, "temporal questions")
    found = main_figures([figure(name, HALF, HALF) for name in names])
    assert [row.name for row in found] == [ORDER, "temporal questions", "static"]
