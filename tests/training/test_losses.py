"""The losses against formulas written out plainly, in Python's own numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo.training.losses import Metrics, dpo_terms, pair_losses, sft_loss

LOSSES = ("sigmoid", "ipo", "hinge", "sppo")
LENGTHS = ("sum", "mean", "ld")

#: Answers of different lengths: chosen in the middle, one rejected longer, one shorter.
POLICY = ((-1.0, -0.4, -2.0), (-4.0, -0.3, -0.2, -1.5, -0.6), (-2.0,))
REFERENCE = ((-1.5, -0.2, -2.2), (-3.0, -0.5, -0.1, -1.0, -0.9), (-1.2,))
LABELS = (("drop", 16), ("reverse", 4))


def logps(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def terms_of(policy=POLICY, reference=REFERENCE, **options):
    options = {"beta": 0.3, "nll_weight": 0.0} | options
    return dpo_terms([logps(*row) for row in policy], [logps(*row) for row in reference], **options)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def plain_score(answer, other, length, alpha):
    """The log-likelihood of one answer in a pair, token by token."""
    if length == "mean":
        return sum(answer) / len(answer)
    weights = [1.0 if length == "sum" or i < len(other) else alpha for i in range(len(answer))]
    return sum(weight * value for weight, value in zip(weights, answer, strict=True))


def plain_ratios(chosen, rejected, other_chosen, other_rejected, length, alpha):
    """The log-ratios of policy to reference of the two answers of a pair."""
    return (
        plain_score(chosen, rejected, length, alpha)
        - plain_score(other_chosen, other_rejected, length, alpha),
        plain_score(rejected, chosen, length, alpha)
        - plain_score(other_rejected, other_chosen, length, alpha),
    )


def plain_loss(won, lost, loss, beta, smoothing=0.0):
    """The loss of one pair from its log-ratios."""
    delta = won - lost
    return {
        "sigmoid": -(1 - smoothing) * log_sigmoid(beta * delta) - smoothing * log_sigmoid(-beta * delta),
        "ipo": (delta - 1 / (2 * beta)) ** 2,
        "hinge": max(0.0, 1 - beta * delta),
        "sppo": (won - 0.5 / beta) ** 2 + (lost + 0.5 / beta) ** 2,
    }[loss]


def test_a_policy_equal_to_its_reference_loses_log_two_per_pair():
    terms = terms_of(POLICY, POLICY)
    assert terms.num_pairs == 2
    assert float(terms.loss.detach()) == pytest.approx(2 * math.log(2))
    assert terms.metrics.sums["rewards/margins"] == (0.0, 2)
    assert terms.metrics.sums["rewards/accuracies"] == (0.0, 2)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("nll_weight", [0.0, 1.0])
def test_the_loss_is_equation_seven_plus_the_chosen_nll(beta, nll_weight):
    policy, reference = ((-1.0, -1.0), (-4.0,)), ((-2.0, -1.5), (-3.0,))
    margin = beta * ((-2.0 + 3.5) - (-4.0 + 3.0))
    terms = terms_of(policy, reference, beta=beta, nll_weight=nll_weight)
    assert float(terms.loss.detach()) == pytest.approx(-log_sigmoid(margin) + nll_weight * 1.0)
    assert terms.metrics.means() == pytest.approx(
        {
            "rewards/chosen": beta * 1.5,
            "rewards/rejected": -beta * 1.0,
            "rewards/margins": margin,
            "rewards/accuracies": 1.0,
            "logps/chosen": -2.0,
            "logps/rejected": -4.0,
            "nll_loss": 1.0,
        }
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("beta", [0.1, 1.7])
def test_every_loss_and_length_is_its_formula_summed_over_pairs(loss, length, beta):
    terms = terms_of(loss=loss, length=length, beta=beta, ld_alpha=0.3, nll_weight=0.7)
    expected, margins = 0.0, 0.0
    for rejected, other in zip(POLICY[1:], REFERENCE[1:], strict=True):
        won, lost = plain_ratios(POLICY[0], rejected, REFERENCE[0], other, length, 0.3)
        expected += plain_loss(won, lost, loss, beta) - 0.7 * sum(POLICY[0]) / len(POLICY[0])
        margins += beta * (won - lost)
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-9)
    assert terms.metrics.sums["rewards/margins"][0] == pytest.approx(margins)


@pytest.mark.parametrize(
    ("loss", "expected"), [("sigmoid", 0.5759394), ("ipo", 1.0), ("hinge", 0.75), ("sppo", 1.0 + 16.0)]
)
def test_a_pair_worked_out_by_hand(loss, expected):
    """beta 0.25, log-ratios 3 and 2: delta 1, beta * delta 0.25, 1 / (2 beta) 2."""
    found = pair_losses(logps(3.0)[0], logps(2.0), loss=loss, beta=0.25)
    assert found.tolist() == pytest.approx([expected])


def test_a_hinge_beyond_its_margin_is_zero_and_teaches_nothing():
    chosen = logps(6.0)
    found = pair_losses(chosen[0], logps(-6.0), loss="hinge", beta=0.1)
    found.sum().backward()
    assert found.item() == 0.0
    assert chosen.grad.item() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_weighs_the_pair_turned_round(smoothing):
    won, lost = 2.0, -1.0
    found = pair_losses(logps(won)[0], logps(lost), loss="sigmoid", beta=0.5, label_smoothing=smoothing)
    assert found.item() == pytest.approx(plain_loss(won, lost, "sigmoid", 0.5, smoothing))


def test_label_smoothing_pulls_an_overconfident_pair_back():
    chosen = logps(30.0)
    pair_losses(chosen[0], logps(-30.0), loss="sigmoid", beta=0.5, label_smoothing=0.1).sum().backward()
    assert chosen.grad.item() == pytest.approx(0.05)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_raise_chosen_and_lower_rejected(loss, length):
    """From where policy and reference agree, whatever the loss."""
    policy = [logps(*row) for row in POLICY]
    reference = [answer.detach() for answer in policy]
    options = {"loss": loss, "length": length, "ld_alpha": 0.3, "beta": 0.1, "nll_weight": 0.0}
    dpo_terms(policy, reference, **options).loss.backward()
    assert (policy[0].grad < 0).all()
    assert all((answer.grad > 0).all() for answer in policy[1:])


def test_the_gradient_of_plain_dpo_at_the_start_is_half_of_beta():
    chosen, rejected = logps(-1.0), logps(-1.0)
    frozen = [chosen.detach(), rejected.detach()]
    dpo_terms([chosen, rejected], frozen, beta=0.1, nll_weight=0.0).loss.backward()
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(0.05)


def test_the_nll_pulls_on_the_chosen_answer_only():
    chosen, rejected = logps(-1.0, -1.0), logps(-1.0)
    frozen = [chosen.detach(), rejected.detach()]
    dpo_terms([chosen, rejected], frozen, beta=1e-9, nll_weight=1.0).loss.backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.5], abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_tokens_beyond_the_common_length_pull_with_weight_alpha():
    """Pair by pair: the chosen answer's third token is beyond the short rejected one, not the long one."""
    policy = [logps(*row) for row in POLICY]
    reference = [answer.detach() for answer in policy]
    dpo_terms(policy, reference, beta=0.1, nll_weight=0.0, length="ld", ld_alpha=0.2).loss.backward()
    assert policy[0].grad.tolist() == pytest.approx([-0.1, -0.06, -0.06])
    assert policy[1].grad.tolist() == pytest.approx([0.05] * 3 + [0.01] * 2)
    assert policy[2].grad.tolist() == pytest.approx([0.05])


@pytest.mark.parametrize("loss", LOSSES)
def test_ld_with_alpha_one_is_the_sum(loss):
    plain = terms_of(loss=loss)
    ld = terms_of(loss=loss, length="ld", ld_alpha=1.0)
    assert float(ld.loss.detach()) == pytest.approx(float(plain.loss.detach()))
    assert ld.metrics.sums == {name: pytest.approx(pair) for name, pair in plain.metrics.sums.items()}


@pytest.mark.parametrize("length", ["mean", "ld"])
def test_answers_that_only_grow_longer_gain_nothing(length):
    """The same change per token in a long and a short answer: the sum sees a margin, the others none."""
    policy, reference = ((-1.0,) * 8, (-1.0,) * 2), ((-1.5,) * 8, (-1.5,) * 2)
    assert terms_of(policy, reference).metrics.means()["rewards/margins"] == pytest.approx(0.3 * 3.0)
    fair = terms_of(policy, reference, length=length, ld_alpha=0.0).metrics.means()
    assert fair["rewards/margins"] == pytest.approx(0.0)
    assert fair["logps/chosen"] == -8.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_group_is_the_sum_of_its_pairs(loss, length):
    options = {"loss": loss, "length": length, "ld_alpha": 0.3, "nll_weight": 0.7}
    whole = terms_of(**options, labels=LABELS)
    loss_of_parts, sums = 0.0, Metrics()
    for i in (1, 2):
        part = terms_of(
            (POLICY[0], POLICY[i]), (REFERENCE[0], REFERENCE[i]), **options, labels=LABELS[i - 1 : i]
        )
        loss_of_parts += float(part.loss.detach())
        sums.add(part.metrics)
    assert float(whole.loss.detach()) == pytest.approx(loss_of_parts)
    assert sums.sums.keys() == whole.metrics.sums.keys()
    for name, (total, count) in whole.metrics.sums.items():
        assert sums.sums[name] == (pytest.approx(total), count), name


def test_margins_and_accuracies_are_kept_by_level_and_kind():
    sums = terms_of(labels=LABELS).metrics.sums
    first = terms_of(POLICY[:2], REFERENCE[:2]).metrics.sums
    second = terms_of((POLICY[0], POLICY[2]), (REFERENCE[0], REFERENCE[2])).metrics.sums
    for name in ("rewards/margins", "rewards/accuracies"):
        assert sums[f"{name}/level_16"] == sums[f"{name}/drop"] == pytest.approx(first[name])
        assert sums[f"{name}/level_4"] == sums[f"{name}/reverse"] == pytest.approx(second[name])
    assert {name for name in sums if name.count("/") == 2} == {
        f"rewards/{what}/{label}"
        for what in ("margins", "accuracies")
        for label in ("level_16", "level_4", "drop", "reverse")
    }


def test_labels_that_are_not_one_per_rejected_answer_are_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        terms_of(labels=LABELS[:1])


def test_metrics_of_ranks_that_saw_different_levels_are_means_over_their_own_pairs():
    one, other = Metrics({"a": (1.0, 2), "a/level_2": (1.0, 2)}), Metrics({"a": (6.0, 3), "b": (4.0, 1)})
    one.add(other)
    assert one.sums == {"a": (7.0, 5), "a/level_2": (1.0, 2), "b": (4.0, 1)}
    assert one.means() == {"a": 1.4, "a/level_2": 0.5, "b": 4.0}
    assert other.sums == {"a": (6.0, 3), "b": (4.0, 1)}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.tuples(*[st.floats(-9, 0)] * 2), min_size=1, max_size=6), min_size=2, max_size=5),
    st.sampled_from(LOSSES),
    st.sampled_from(LENGTHS),
)
def test_an_accuracy_counts_the_pairs_with_a_margin_above_zero(answers, loss, length):
    policy = [[own for own, _ in answer] for answer in answers]
    reference = [[other for _, other in answer] for answer in answers]
    terms = terms_of(policy, reference, loss=loss, length=length, ld_alpha=0.5)
    sums = terms.metrics.sums
    assert math.isfinite(float(terms.loss.detach()))
    assert 0 <= sums["rewards/accuracies"][0] <= sums["rewards/accuracies"][1] == len(answers) - 1
    assert sums["rewards/chosen"][0] - sums["rewards/rejected"][0] == pytest.approx(
        sums["rewards/margins"][0], abs=1e-9
    )


def test_sft_sums_tokens_and_counts_them():
    loss, count = sft_loss([logps(-1.0, -2.0), logps(-0.5)])
    assert float(loss.detach()) == pytest.approx(3.5)
    assert count == 3
