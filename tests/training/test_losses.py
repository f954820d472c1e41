"""The losses against their formulas, written out plainly in Python's own numbers."""

import math

import pytest
import torch

from tempo.training.losses import dpo_loss, sft_loss
from tempo.training.metrics import Metrics

LOSSES = ("sigmoid", "ipo", "hinge", "sppo")
REDUCTIONS = ("sum", "mean", "ld")

#: Answers of different lengths: the chosen one between a longer and a shorter rejected one.
POLICY = ((-1.0, -0.4, -2.0), (-4.0, -0.3, -0.2, -1.5, -0.6), (-2.0,))
REFERENCE = ((-1.5, -0.2, -2.2), (-3.0, -0.5, -0.1, -1.0, -0.9), (-1.2,))
LABELS = (("drop", 16), ("reverse", 4))


def logps(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def summed(policy=POLICY, reference=REFERENCE, **options):
    """The loss summed over pairs, as a number, and the metrics."""
    options = {"beta": 0.3, "reduction": "sum"} | options
    loss, metrics = dpo_loss([logps(*row) for row in policy], [logps(*row) for row in reference], **options)
    return float(loss.detach()), metrics


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def plain_score(answer, other, reduction, alpha):
    """The log-likelihood of one answer in a pair, token by token."""
    if reduction == "mean":
        return sum(answer) / len(answer)
    weights = [1.0 if reduction == "sum" or i < len(other) else alpha for i in range(len(answer))]
    return sum(weight * value for weight, value in zip(weights, answer, strict=True))


def plain_loss(won, lost, loss, beta, smoothing):
    """The loss of one pair from the log-ratios of its answers."""
    delta = won - lost
    return {
        "sigmoid": -(1 - smoothing) * log_sigmoid(beta * delta) - smoothing * log_sigmoid(-beta * delta),
        "ipo": (delta - 1 / (2 * beta)) ** 2,
        "hinge": max(0.0, 1 - beta * delta),
        "sppo": (won - 0.5 / beta) ** 2 + (lost + 0.5 / beta) ** 2,
    }[loss]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [0.1, 1.7])
def test_every_loss_and_reduction_is_its_formula_summed_over_pairs(loss, reduction, beta):
    options = {"loss": loss, "logp_reduction": reduction, "beta": beta, "label_smoothing": 0.2}
    found, metrics = summed(**options, ld_alpha=0.3, nll_weight=0.7)
    expected, margins = 0.0, 0.0
    for rejected, reference in zip(POLICY[1:], REFERENCE[1:], strict=True):
        won = plain_score(POLICY[0], rejected, reduction, 0.3)
        won -= plain_score(REFERENCE[0], reference, reduction, 0.3)
        lost = plain_score(rejected, POLICY[0], reduction, 0.3)
        lost -= plain_score(reference, REFERENCE[0], reduction, 0.3)
        expected += plain_loss(won, lost, loss, beta, smoothing=0.2) - 0.7 * sum(POLICY[0]) / len(POLICY[0])
        margins += beta * (won - lost)
    assert found == pytest.approx(expected, rel=1e-9)
    assert metrics.sums["rewards/margins"] == (pytest.approx(margins), 2)


def test_metrics_of_a_pair_are_rewards_and_log_probabilities():
    _, metrics = summed(((-1.0, -1.0), (-4.0,)), ((-2.0, -1.5), (-3.0,)), beta=0.1)
    assert metrics.means() == pytest.approx(
        {
            "rewards/chosen": 0.1 * 1.5,
            "rewards/rejected": -0.1 * 1.0,
            "rewards/margins": 0.1 * 2.5,
            "rewards/accuracies": 1.0,
            "logps/chosen": -2.0,
            "logps/rejected": -4.0,
            "nll_loss": 1.0,
        }
    )


def test_a_policy_equal_to_its_reference_has_loss_log_two():
    loss, metrics = summed(POLICY, POLICY, reduction="mean")
    assert loss == pytest.approx(math.log(2)), "the mean is over pairs"
    assert metrics.sums["rewards/accuracies"] == (0.0, 2), "a tie is not right"


def test_a_summed_log_probability_counts_as_one_token():
    sums = [[torch.tensor(sum(row), dtype=torch.float64) for row in rows] for rows in (POLICY, REFERENCE)]
    loss, metrics = dpo_loss(*sums, beta=0.3, reduction="sum")
    assert (float(loss), metrics.means()["logps/chosen"]) == pytest.approx((summed()[0], sum(POLICY[0])))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_raise_chosen_and_lower_rejected(loss, reduction):
    """From where policy and reference agree, whatever the loss."""
    policy = [logps(*row) for row in POLICY]
    reference = [answer.detach() for answer in policy]
    dpo_loss(policy, reference, loss=loss, logp_reduction=reduction, ld_alpha=0.3)[0].backward()
    assert (policy[0].grad < 0).all()
    assert all((answer.grad > 0).all() for answer in policy[1:])


def test_metrics_are_sums_over_pairs_and_by_label():
    whole, added = summed(labels=LABELS, ids=["a1", "a2"])[1], Metrics()
    for i, label in enumerate(LABELS, 1):
        options = {"labels": [label], "ids": [f"a{i}"]}
        _, found = summed((POLICY[0], POLICY[i]), (REFERENCE[0], REFERENCE[i]), **options)
        assert found.margins == {f"a{i}": found.sums["rewards/margins"][0]}
        for name in ("rewards/margins", "rewards/accuracies"):
            kind, level = label
            assert found.sums[f"{name}/level_{level}"] == found.sums[f"{name}/{kind}"] == found.sums[name]
        added.add(found)
    assert added.margins == pytest.approx(whole.margins)
    assert added.sums == {name: (pytest.approx(total), count) for name, (total, count) in whole.sums.items()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reference": REFERENCE[:2]}, "same numbers of tokens"),
        ({"reference": (*REFERENCE[:2], (-1.0, -1.0))}, "same numbers of tokens"),
        ({"policy": POLICY[:1], "reference": REFERENCE[:1]}, "at least one rejected answer"),
        ({"labels": LABELS[:1]}, "2 rejected answers need as many labels, got 1"),
        ({"loss": "dpo"}, "loss: 'dpo' is not one of"),
        ({"logp_reduction": "max"}, "logp_reduction: 'max' is not one of"),
    ],
)
def test_sizes_that_do_not_fit_together_and_unknown_names_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        summed(**arguments)


def test_sft_is_the_negative_log_likelihood_of_all_tokens():
    answers = [logps(-1.0, -2.0), logps(-0.6)]
    loss, metrics = sft_loss(answers)
    assert float(loss.detach()) == pytest.approx(1.2)
    assert metrics.sums == {"nll_loss": (pytest.approx(3.6), 3)}
    loss.backward()
    assert torch.cat([answer.grad for answer in answers]).tolist() == pytest.approx([-1 / 3] * 3)
    assert float(sft_loss(answers, reduction="sum")[0].detach()) == pytest.approx(3.6)
