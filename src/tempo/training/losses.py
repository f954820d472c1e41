"""The losses: pure functions of token log-probabilities. K is the number of rejected answers."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tempo.config.running import LogpReduction, Loss
from tempo.training.metrics import ACCURACIES, Metrics


def dpo_loss(
    policy: Sequence[Tensor],
    reference: Sequence[Tensor],
    *,
    beta: float = 0.1,
    loss: Loss = "sigmoid",
    label_smoothing: float = 0.0,
    logp_reduction: LogpReduction = "sum",
    ld_alpha: float = 1.0,
    nll_weight: float = 0.0,
    labels: Sequence[tuple[str, int]] = (),
    ids: Sequence[str] = (),
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, Metrics]:
    """The preference loss of one chosen and K rejected answers to a prompt, over their K pairs.

    With `r(y)` the log-ratio of policy to reference of an answer, a pair has the loss of `pair_losses`, by
    default that of DPO, `-log sigmoid(beta * (r(chosen) - r(rejected)))`, plus `nll_weight` times the mean
    negative log-likelihood of the chosen answer's tokens (arXiv 2404.19733, equation 1).

    Args:
        policy: token log-probabilities of the chosen answer, then of each rejected one, each [num_tokens];
            a summed log-probability counts as one token. Gradients flow into these.
        reference: the same under the reference model.
        beta: strength of the preference loss; higher keeps the policy closer to the reference.
        logp_reduction: the `sum` or `mean` over an answer's tokens, or `ld`: the sum, in which tokens beyond
            the length of the shorter answer of a pair have weight `ld_alpha` (LD-DPO, arXiv 2409.06411).
        labels: kind and level of each rejected answer, K of them, for metrics by kind and by level.
        ids: the id of each pair, K of them, for its margin in the metrics.
        reduction: over the K pairs.

    Returns the loss, a scalar, and the metrics over the K pairs: `rewards/*` are beta times log-ratios,
    `logps/*` are sums over tokens, `nll_loss` is per token of the chosen answer. Raises ValueError if the
    numbers of answers, tokens or labels do not match, and for an unknown `loss` or `logp_reduction`.
    """
    policy = [torch.atleast_1d(answer) for answer in policy]
    reference = [torch.atleast_1d(answer) for answer in reference]
    shapes, others = ([len(answer) for answer in answers] for answers in (policy, reference))
    if len(shapes) < 2 or shapes != others:
        raise ValueError(
            "policy and reference: both need a chosen and at least one rejected answer, with the same "
            f"numbers of tokens, got {shapes} and {others}"
        )
    num_pairs = len(policy) - 1
    if labels and len(labels) != num_pairs:
        raise ValueError(f"labels: {num_pairs} rejected answers need as many labels, got {len(labels)}")
    if logp_reduction not in get_args(LogpReduction):
        raise ValueError(f"logp_reduction: {logp_reduction!r} is not one of {get_args(LogpReduction)}")
    own_chosen, own_rejected_K = _scores(policy, logp_reduction, ld_alpha)
    ref_chosen, ref_rejected_K = _scores(reference, logp_reduction, ld_alpha)
    chosen, rejected_K = own_chosen - ref_chosen, own_rejected_K - ref_rejected_K
    losses_K = pair_losses(chosen, rejected_K, loss=loss, beta=beta, label_smoothing=label_smoothing)
    nll = -policy[0].mean()
    total = losses_K.sum() + nll_weight * nll * num_pairs
    margins_K = beta * chosen - beta * rejected_K
    values = {
        "rewards/chosen": beta * chosen,
        "rewards/rejected": beta * rejected_K,
        "rewards/margins": margins_K,
        ACCURACIES: (margins_K > 0).to(margins_K.dtype),
        "logps/chosen": policy[0].sum(),
        "logps/rejected": torch.stack([answer.sum() for answer in policy[1:]]),
        "nll_loss": nll,
    }
    metrics = _pair_metrics(values, labels, ids, num_pairs)
    return total if reduction == "sum" else total / num_pairs, metrics


def _scores(answers: Sequence[Tensor], reduction: LogpReduction, ld_alpha: float) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of the chosen answer (a scalar, or [K] for "ld") and of the rejected ones, [K]."""

    def score(answer: Tensor, other: Tensor) -> Tensor:
        if reduction == "ld":
            return answer[: len(other)].sum() + ld_alpha * answer[len(other) :].sum()
        return answer.sum() if reduction == "sum" else answer.mean()

    chosen, *rejected = answers
    rejected_K = torch.stack([score(answer, chosen) for answer in rejected])
    if reduction == "ld":
        return torch.stack([score(chosen, answer) for answer in rejected]), rejected_K
    return score(chosen, chosen), rejected_K


def pair_losses(
    chosen: Tensor, rejected_K: Tensor, *, loss: Loss, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair, [K], from the log-ratios of policy to reference of its answers.

    With `d = chosen - rejected`:

    - `sigmoid`: `-log sigmoid(beta * d)`, DPO (arXiv 2305.18290, equation 7). `label_smoothing` is the share
      of pairs assumed to be swapped, the weight of the same loss with `-d` (conservative DPO).
    - `ipo`: `(d - 1 / (2 * beta)) ** 2` (arXiv 2310.12036, equation 17, where beta is called tau). The paper
      sums over tokens; TRL averages, which is `logp_reduction = "mean"`.
    - `hinge`: `max(0, 1 - beta * d)`, SLiC (arXiv 2305.10425) with margin 1.
    - `sppo`: `(chosen - 1 / (2 * beta)) ** 2 + (rejected + 1 / (2 * beta)) ** 2` (arXiv 2405.00675, equation
      4.7), assuming that the chosen answer wins with probability 1.
    """
    if loss == "ipo":
        return (chosen - rejected_K - 1 / (2 * beta)) ** 2
    if loss == "sppo":
        return (chosen - 1 / (2 * beta)) ** 2 + (rejected_K + 1 / (2 * beta)) ** 2
    margins_K = beta * chosen - beta * rejected_K
    if loss == "hinge":
        return torch.relu(1 - margins_K)
    if loss != "sigmoid":
        raise ValueError(f"loss: {loss!r} is not one of {get_args(Loss)}")
    return -(1 - label_smoothing) * F.logsigmoid(margins_K) - label_smoothing * F.logsigmoid(-margins_K)


def sft_loss(
    answers: Sequence[Tensor], *, reduction: Literal["mean", "sum"] = "mean"
) -> tuple[Tensor, Metrics]:
    """The negative log-likelihood of answers, `-sum(log p(token))`, over all their tokens.

    `answers` are token log-probabilities, each [num_tokens], and gradients flow into them. Returns the loss,
    a scalar, and the metric `nll_loss` (its mean over tokens).
    """
    logps = torch.cat([torch.atleast_1d(answer) for answer in answers])
    total = -logps.sum()
    metrics = Metrics({"nll_loss": (float(total.detach()), len(logps))})
    return total if reduction == "sum" else total / len(logps), metrics


def _pair_metrics(
    values: dict[str, Tensor], labels: Sequence[tuple[str, int]], ids: Sequence[str], num_pairs: int
) -> Metrics:
    """Sums the values ([K], or a scalar for all K pairs) over all pairs, and over those of each label."""
    # One transfer for all values: a `float()` for each value would synchronize the GPU every time.
    rows = torch.stack([value.detach().expand(num_pairs) for value in values.values()]).tolist()
    table = dict(zip(values, rows, strict=True))
    metrics = Metrics({name: (sum(row), num_pairs) for name, row in table.items()})
    metrics.margins = dict(zip(ids, table["rewards/margins"], strict=True)) if ids else {}
    for name in ("rewards/margins", ACCURACIES) if labels else ():
        for (kind, level), value in zip(labels, table[name], strict=True):
            metrics.count(f"{name}/level_{level}", value)
            metrics.count(f"{name}/{kind}", value)
    return metrics
