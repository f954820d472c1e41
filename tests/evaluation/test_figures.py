"""Figures: values, paired differences with intervals by video, McNemar's test, and the table."""

import re

import numpy as np
import pytest

from tempo.core.statistics import cluster_interval
from tempo.evaluation.figures import (
    Evaluation,
    Figure,
    Item,
    figure_rows,
    figure_tables,
    make_figure,
    mcnemar,
)


def items(*values, num_videos=6):
    """Items of several videos in turn, the last first."""
    return [Item(f"{i:03d}", f"v{i % num_videos}", value) for i, value in enumerate(values)][::-1]


def figure(*, num_videos=6, name="all", **values):
    models = {model: items(*own, num_videos=num_videos) for model, own in values.items()}
    return make_figure("a benchmark", name, models, seed=0)


def test_differences_are_those_of_the_same_items_resampled_by_video():
    rng = np.random.default_rng(0)
    base, sft, tempo = (rng.random(60) < share for share in (0.5, 0.5, 0.8))
    made = figure(base=base, sft_only=sft, tempo=tempo)
    assert (made.num_videos, made.num_items) == (6, 60)
    assert list(made.values) == ["base", "sft_only", "tempo"]
    assert list(made.differences) == ["base", "sft_only"]
    for model, other in (("base", base), ("sft_only", sft)):
        gain = tempo.astype(float) - other
        found = made.differences[model]
        assert made.values[model].value == pytest.approx(other.mean(), abs=1e-5)
        assert found.value == pytest.approx(gain.mean(), abs=1e-5)
        low, high = found.interval
        assert low < found.value < high
        # As wide as without pairing by item, if all items of a video change together.
        wide = cluster_interval(np.repeat(gain[:6], 10), np.repeat([f"v{i}" for i in range(6)], 10), seed=0)
        assert high - low < wide[1] - wide[0]
        assert found.p_value == mcnemar(gain)


@pytest.mark.parametrize(
    ("gains", "p_value"),
    [
        # 2 * (1 + 9 + 36) / 2**9 for 7 of 9, two-sided; equal items do not count.
        ([1] * 7 + [-1] * 2 + [0] * 50, 2 * (1 + 9 + 36) / 2**9),
        ([1] * 5, 2 / 2**5),
        ([1, -1], 1.0),
        ([0, 0], 1.0),
    ],
)
def test_mcnemar_is_the_exact_test_of_the_items_that_changed(gains, p_value):
    assert mcnemar(np.array(gains)) == pytest.approx(p_value, abs=1e-5)


def test_few_videos_have_no_intervals_and_no_p_values():
    made = figure(num_videos=4, base=[0, 1] * 20, tempo=[1] * 40)
    assert [value.interval for value in made.values.values()] == [None, None]
    assert (made.differences["base"].interval, made.differences["base"].p_value) == (None, None)
    assert made.differences["base"].value == 0.5


def test_a_run_without_training_has_no_differences():
    assert figure(base=[0, 1]).differences == {}


def test_the_table_has_a_row_per_figure_and_the_notes():
    shares = figure(base=[0.0, 1.0] * 6, tempo=[1.0] * 12)
    margins = figure(name="margin", base=[0.5] * 12, tempo=[0.25, 0.5] * 6)
    few = figure(num_videos=2, base=[0.0, 1.0], tempo=[1.0, 1.0])
    rows = figure_rows([shares, margins, few])
    assert rows[0] == ["", "videos", "base", "tempo", "tempo - base"]
    assert [row[:2] for row in rows[1:]] == [["all", "6"], ["margin (nats per token)", "6"], ["all", "2"]]
    assert rows[1][4].startswith("+50.0, p = 0.031\n[+")
    assert rows[2][2] == "0.500\n[0.500, 0.500]"
    assert rows[2][4].startswith("-0.125\n[-0.")
    assert rows[3][2:] == ["50.0", "100.0", "+50.0"]
    many = figure(base=[0.0, 1.0] * 12, tempo=[1.0] * 24)
    assert figure_rows([many])[1][4].startswith("+50.0, p < 0.001")
    read = [Figure.model_validate_json(row.model_dump_json()) for row in (shares, margins, few)]
    assert read == [shares, margins, few]
    table, note = figure_tables(Evaluation(figures=tuple(read), notes=("no benchmark",)))
    assert (table.title, len(table.rows), note) == ("a benchmark, in percent", 2, "evaluation: no benchmark")
    _, first, last = figure_rows([shares, margins, few], is_short=True)
    assert first[:3] == ["all", "50.0", "100.0"]
    assert re.fullmatch(r"\+50\.0 \[\d\d, \d\d\]", first[3])
    assert last == ["all", "50.0", "100.0", "+50.0"]
