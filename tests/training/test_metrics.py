"""Metrics are sums that can be added, rows of a file that can be resumed, and a source of warnings."""

import json

import pytest
from training_material import phase

from tempo.training.metrics import Metrics, MetricsLog, find_warnings


def test_metrics_of_processes_with_different_levels_are_means_over_their_own_pairs():
    one, other = Metrics({"a": (1.0, 2), "a/level_2": (1.0, 2)}), Metrics({"a": (6.0, 3), "b": (4.0, 1)})
    one.add(other)
    assert one.means() == {"a": 1.4, "a/level_2": 0.5, "b": 4.0}
    assert other.sums == {"a": (6.0, 3), "b": (4.0, 1)}


def test_a_log_is_written_row_by_row_and_resumed_at_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, phase())
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 1 / 3})
    assert log.rows[:2] == [{"step": step, "loss": 0.333333} for step in (1, 2)]
    resumed = MetricsLog(path, phase(), num_steps=2)
    assert resumed.rows == log.rows[:2]
    resumed.append({"step": 3, "loss": 0.5})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.333333, 0.333333, 0.5]
    with pytest.raises(ValueError, match=r"metrics\.jsonl has 3 rows, .* after step 4\. Remove"):
        MetricsLog(path, phase(), num_steps=4)


def rows(accuracies, chosen=0.0, rejected=-0.1):
    return [
        {
            "rewards/accuracies": accuracy,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            # The first step of a warm-up has rate 0.
            "learning_rate": 0.0 if number == 0 else 1e-3,
        }
        for number, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0, 0, 1, 1, 1, 1, 1], ["trivial pairs"]),
        ([0, 0, 1, 1, 0.9, 1, 1, 1, 1], []),
        ([0, 0.5, 0.6, 0.7, 0.8, 1, 1, 1, 1, 1, 1], []),
        ([0, 0, 1, 1], []),
    ],
)
def test_pairs_that_are_right_at_once_are_called_trivial(accuracies, expected):
    assert list(find_warnings(rows(accuracies), phase())) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "nll_weight", "words"),
    [
        (-1.0, -3.0, 0.0, "common in DPO without an NLL term"),
        (-1.0, -3.0, 1.0, "not expected here"),
        (-3.0, -1.0, 0.0, "not expected here"),
        (-0.1, -3.0, 0.0, None),
    ],
)
def test_a_falling_reward_of_chosen_answers_is_explained(chosen, rejected, nll_weight, words):
    found = find_warnings(rows([0.5] * 6, chosen, rejected), phase(nll_weight=nll_weight))
    assert (words is None and not found) or words in found["falling chosen"]
    assert find_warnings([{"loss": 1.0}] * 10, phase(objective="sft")) == {}


def test_a_warning_is_given_once_also_after_a_stop(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", phase())
    given = []
    *most, last = rows([0.5] * 9, chosen=-1.0)
    for row in most:
        given += log.append(row)
    assert len(given) == 1
    assert MetricsLog(tmp_path / "metrics.jsonl", phase(), num_steps=8).append(last) == []
