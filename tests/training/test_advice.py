"""Warnings that teach: given when the figures call for them, and not otherwise."""

import pytest
from pydantic import TypeAdapter

from tempo.config import PhaseConfig
from tempo.training.advice import advise


def phase(**changes):
    return TypeAdapter(PhaseConfig).validate_python(
        {"name": "p", "objective": "dpo", "learning_rate": 1e-3} | changes
    )


def rows(accuracies, chosen=0.0, rejected=-0.1):
    return [
        {
            "rewards/accuracies": accuracy,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            # The first step of a warm-up has no rate.
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
def test_pairs_that_are_won_at_once_are_called_trivial(accuracies, expected):
    assert list(advise(rows(accuracies), phase())) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "nll_weight", "says"),
    [
        (-1.0, -3.0, 0.0, "Usual for DPO without NLL"),
        (-1.0, -3.0, 1.0, "Not usual here"),
        (-3.0, -1.0, 0.0, "Not usual here"),
        (-0.1, -3.0, 0.0, None),
    ],
)
def test_a_falling_reward_of_chosen_answers_is_explained(chosen, rejected, nll_weight, says):
    found = advise(rows([0.5] * 6, chosen, rejected), phase(nll_weight=nll_weight))
    assert (says is None and not found) or says in found["falling chosen"]


def test_sft_has_no_pairs_to_warn_about():
    assert advise([{"loss": 1.0}] * 10, phase(objective="sft")) == {}
