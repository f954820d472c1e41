"""Metrics are sums that can be added, rows of a file that can be resumed, and the source of a warning."""

import json

import pytest
from training_material import phase

from tempo.training.metrics import Metrics, MetricsLog, find_warning


def test_metrics_of_processes_with_different_levels_are_means_over_their_own_pairs():
    one, other = Metrics({"a": (1.0, 2), "a/level_2": (1.0, 2)}), Metrics({"a": (6.0, 3), "b": (4.0, 1)})
    one.add(other)
    assert one.means() == {"a": 1.4, "a/level_2": 0.5, "b": 4.0}


def test_a_log_is_written_row_by_row_and_resumed_at_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 1 / 3})
    assert log.rows[:2] == [{"step": step, "loss": 0.333333} for step in (1, 2)]
    resumed = MetricsLog(path, num_steps=2)
    assert resumed.rows == log.rows[:2]
    resumed.append({"step": 3, "loss": 0.5})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.333333, 0.333333, 0.5]
    with pytest.raises(ValueError, match=r"metrics\.jsonl has 3 rows for 4 steps"):
        MetricsLog(path, num_steps=4)


@pytest.mark.parametrize(
    ("chosen", "rejected", "nll_weight", "words"),
    [
        (-1.0, -3.0, 0.0, "Set nll_weight = 1.0"),
        (-1.0, -3.0, 1.0, "Lower its learning_rate"),
        (-3.0, -1.0, 0.0, "Lower its learning_rate"),
        (-0.1, -3.0, 0.0, ""),
    ],
)
def test_a_falling_reward_of_chosen_answers_is_a_warning(chosen, rejected, nll_weight, words):
    rows = [{"rewards/chosen": chosen, "rewards/rejected": rejected}] * 6
    found = find_warning(rows, phase(nll_weight=nll_weight))
    assert words in found
    assert bool(found) is bool(words)
    assert find_warning([{"loss": 1.0}] * 10, phase(objective="sft")) == ""
