"""The losses, as pure functions of log-probabilities that return their metrics.

K: rejected answers of a group, so its pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tempo.config import LogpReduction, Loss

ACCURACIES = "rewards/accuracies"

#: Metrics that are also kept per level and per kind.
SPLIT_METRICS = ("rewards/margins", ACCURACIES)


def level_metric(name: str, level: int) -> str:
    """What a metric is called for the pairs of one level."""
    return f"{name}/level_{level}"


@dataclass
class Metrics:
    """Sums by name, each with the number of pairs behind it: add those of groups and ranks, then divide."""

    sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def count(self, name: str, total: float, number: int = 1) -> None:
        """Adds `number` values of one metric by their sum."""
        known, before = self.sums.get(name, (0.0, 0))
        self.sums[name] = (known + total, before + number)

    def add(self, other: Metrics) -> None:
        """Adds the sums of another group, row or rank; it may know other names."""
        for name, (total, number) in other.sums.items():
            self.count(name, total, number)

    def means(self) -> dict[str, float]:
        """The mean of every metric over its own pairs."""
        return {name: total / number for name, (total, number) in self.sums.items()}


@dataclass(frozen=True)
class DpoTerms:
    """Sums over the pairs of one group; divide by the number of pairs of the whole batch."""

    loss: Tensor
    metrics: Metrics
    num_pairs: int


def dpo_terms(
    policy: Sequence[Tensor],
    reference: Sequence[Tensor],
    *,
    beta: float,
    nll_weight: float,
    loss: Loss = "sigmoid",
    label_smoothing: float = 0.0,
    length: LogpReduction = "sum",
    ld_alpha: float = 1.0,
    labels: Sequence[tuple[str, int]] = (),
) -> DpoTerms:
    """The preference loss of one chosen and K rejected answers, plus the chosen answer's mean token NLL.

    `policy` and `reference` hold the token log-probabilities of the chosen answer, then of each rejected one;
    `labels`, where given, the kind and level of each rejected one. Every pair counts once. Rewards are beta
    times the log-ratio that the loss sees, `length` included; `logps/*` are plain sums over tokens.
    """
    num_pairs = len(policy) - 1
    own_chosen, own_rejected_K = answer_scores(policy, length=length, ld_alpha=ld_alpha)
    other_chosen, other_rejected_K = answer_scores(reference, length=length, ld_alpha=ld_alpha)
    chosen, rejected_K = own_chosen - other_chosen, own_rejected_K - other_rejected_K
    losses_K = pair_losses(chosen, rejected_K, loss=loss, beta=beta, label_smoothing=label_smoothing)
    nll = -policy[0].mean()
    rewards = {"rewards/chosen": beta * chosen, "rewards/rejected": beta * rejected_K}
    margins_K = rewards["rewards/chosen"] - rewards["rewards/rejected"]
    values = rewards | {
        "rewards/margins": margins_K,
        ACCURACIES: (margins_K > 0).to(margins_K.dtype),
        "logps/chosen": policy[0].sum(),
        "logps/rejected": torch.stack([answer.sum() for answer in policy[1:]]),
        "nll_loss": nll,
    }
    return DpoTerms(
        losses_K.sum() + nll_weight * nll * num_pairs, _metrics(values, labels, num_pairs), num_pairs
    )


def answer_scores(
    answers: Sequence[Tensor], *, length: LogpReduction, ld_alpha: float
) -> tuple[Tensor, Tensor]:
    """The log-likelihoods of the chosen answer (one number, or one per pair, [K]) and the rejected ones [K].

    `sum` adds the tokens, `mean` averages them. `ld` (LD-DPO, arXiv 2409.06411) adds them too, but those
    beyond the length that chosen and rejected have in common count `ld_alpha`: 1 is `sum`, 0 cuts both to
    the shorter. So what the chosen answer scores depends on the answer that it is compared with.
    """
    chosen, rejected = answers[0], answers[1:]
    if length == "ld":
        scores = [
            (_cut_sum(chosen, len(other), ld_alpha), _cut_sum(other, len(chosen), ld_alpha))
            for other in rejected
        ]
        return torch.stack([score for score, _ in scores]), torch.stack([score for _, score in scores])
    totals = [answer.sum() if length == "sum" else answer.mean() for answer in answers]
    return totals[0], torch.stack(totals[1:])


def pair_losses(
    chosen: Tensor, rejected_K: Tensor, *, loss: Loss, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair, [K], from the log-ratios (policy to reference) of its two answers.

    `sigmoid`: DPO (arXiv 2305.18290, equation 7); `label_smoothing` is the assumed share of pairs that are
    the wrong way round (conservative DPO). `ipo`: arXiv 2310.12036, equation 17, where beta is called tau.
    As written there it takes `length = "sum"`; TRL averages over tokens, which is `length = "mean"`. `hinge`:
    SLiC (arXiv 2305.10425) with a margin of 1 on beta times the log-ratios. `sppo`: arXiv 2405.00675,
    equation 4.7, each answer by itself, where chosen wins with probability 1.
    """
    if loss == "ipo":
        return (chosen - rejected_K - 1 / (2 * beta)) ** 2
    if loss == "sppo":
        return (chosen - 1 / (2 * beta)) ** 2 + (rejected_K + 1 / (2 * beta)) ** 2
    margins_K = beta * chosen - beta * rejected_K
    if loss == "hinge":
        return torch.relu(1 - margins_K)
    if label_smoothing == 0:
        return -F.logsigmoid(margins_K)
    return -(1 - label_smoothing) * F.logsigmoid(margins_K) - label_smoothing * F.logsigmoid(-margins_K)


def sft_loss(answers: Sequence[Tensor]) -> tuple[Tensor, int]:
    """The summed NLL of all scored tokens and their number; divide by that of the whole batch."""
    return -torch.cat(list(answers)).sum(), sum(len(answer) for answer in answers)


def _cut_sum(answer: Tensor, other_length: int, alpha: float) -> Tensor:
    return answer[:other_length].sum() + alpha * answer[other_length:].sum()


def _metrics(values: dict[str, Tensor], labels: Sequence[tuple[str, int]], num_pairs: int) -> Metrics:
    """The values, each [K] or one number for all K pairs, summed over pairs, and over those of a label."""
    # One transfer for all of them: each `float()` of its own would make a GPU wait.
    rows = torch.stack([value.detach().expand(num_pairs) for value in values.values()]).tolist()
    table = dict(zip(values, rows, strict=True))
    metrics = Metrics()
    for name, row in table.items():
        metrics.count(name, sum(row), num_pairs)
    for name in SPLIT_METRICS if labels else ():
        for (kind, level), value in zip(labels, table[name], strict=True):
            metrics.count(level_metric(name, level), value)
            metrics.count(f"{name}/{kind}", value)
    return metrics
