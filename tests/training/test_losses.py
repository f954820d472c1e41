"""The losses against numbers worked out by hand."""

import math

import pytest
import torch

from tempo.training.losses import dpo_terms, sft_loss


def logps(*values):
    return torch.tensor(values, requires_grad=True)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def test_a_policy_equal_to_its_reference_loses_log_two_per_pair():
    answers = [logps(-1.0, -2.0), logps(-3.0), logps(-0.5)]
    terms = dpo_terms(answers, answers, beta=0.1, nll_weight=0.0)
    assert terms.num_pairs == 2
    assert float(terms.loss.detach()) == pytest.approx(2 * math.log(2))
    assert terms.metrics["rewards/margins"] == 0.0
    assert terms.metrics["rewards/accuracies"] == 0.0


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("nll_weight", [0.0, 1.0])
def test_the_loss_is_equation_seven_plus_the_chosen_nll(beta, nll_weight):
    policy = [logps(-1.0, -1.0), logps(-4.0)]
    reference = [logps(-2.0, -1.5), logps(-3.0)]
    margin = beta * ((-2.0 + 3.5) - (-4.0 + 3.0))
    terms = dpo_terms(policy, reference, beta=beta, nll_weight=nll_weight)
    assert float(terms.loss.detach()) == pytest.approx(-log_sigmoid(margin) + nll_weight * 1.0)
    assert terms.metrics["rewards/chosen"] == pytest.approx(beta * 1.5)
    assert terms.metrics["rewards/rejected"] == pytest.approx(-beta * 1.0)
    assert terms.metrics["rewards/margins"] == pytest.approx(margin)
    assert terms.metrics["rewards/accuracies"] == 1.0
    assert terms.metrics["nll_loss"] == pytest.approx(1.0)


def test_a_group_is_the_sum_of_its_pairs():
    policy = [logps(-1.0, -0.4), logps(-4.0), logps(-2.0, -0.1)]
    reference = [logps(-2.0, -0.3), logps(-3.0), logps(-2.5, -0.2)]
    whole = dpo_terms(policy, reference, beta=0.3, nll_weight=0.7)
    parts = [
        dpo_terms([policy[0], policy[i]], [reference[0], reference[i]], beta=0.3, nll_weight=0.7)
        for i in (1, 2)
    ]
    assert float(whole.loss.detach()) == pytest.approx(sum(float(part.loss.detach()) for part in parts))
    for name, value in whole.metrics.items():
        assert value == pytest.approx(sum(part.metrics[name] for part in parts)), name


def test_gradients_raise_chosen_and_lower_rejected():
    chosen, rejected = logps(-1.0), logps(-1.0)
    frozen = [torch.tensor([-1.0]), torch.tensor([-1.0])]
    dpo_terms([chosen, rejected], frozen, beta=0.1, nll_weight=0.0).loss.backward()
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(0.05)


def test_the_nll_pulls_on_the_chosen_answer_only():
    chosen, rejected = logps(-1.0, -1.0), logps(-1.0)
    frozen = [torch.tensor([-1.0, -1.0]), torch.tensor([-1.0])]
    dpo_terms([chosen, rejected], frozen, beta=1e-9, nll_weight=1.0).loss.backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.5], abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_sft_sums_tokens_and_counts_them():
    loss, count = sft_loss([logps(-1.0, -2.0), logps(-0.5)])
    assert float(loss.detach()) == pytest.approx(3.5)
    assert count == 3
