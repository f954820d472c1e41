"""The losses, as pure functions of log-probabilities that return their metrics.

K: rejected answers of a group
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DpoTerms:
    """Sums over the pairs of one group; divide by the number of pairs of the whole batch."""

    loss: Tensor
    metrics: dict[str, float]
    num_pairs: int


def dpo_terms(
    policy: Sequence[Tensor], reference: Sequence[Tensor], *, beta: float, nll_weight: float
) -> DpoTerms:
    """DPO (arXiv 2305.18290, equation 7) of one chosen and K rejected answers, plus the chosen answer's NLL.

    `policy` and `reference` hold the token log-probabilities of the chosen answer, then of each rejected one.
    Every pair counts once: its loss is -log sigmoid(beta * margin) + nll_weight * mean token NLL of chosen.
    """
    rewards = [beta * (p.sum() - r.sum()) for p, r in zip(policy, reference, strict=True)]
    margins_K = rewards[0] - torch.stack(rewards[1:])
    nll = -policy[0].mean()
    num_pairs = len(policy) - 1
    loss = -F.logsigmoid(margins_K).sum() + nll_weight * nll * num_pairs
    rejected = torch.stack(rewards[1:]).detach()
    metrics = {
        "rewards/chosen": float(rewards[0].detach()) * num_pairs,
        "rewards/rejected": float(rejected.sum()),
        "rewards/margins": float(margins_K.detach().sum()),
        "rewards/accuracies": float((margins_K.detach() > 0).sum()),
        "logps/chosen": float(policy[0].detach().sum()) * num_pairs,
        "logps/rejected": float(sum(p.detach().sum() for p in policy[1:])),
        "nll_loss": float(nll.detach()) * num_pairs,
    }
    return DpoTerms(loss, metrics, num_pairs)


def sft_loss(answers: Sequence[Tensor]) -> tuple[Tensor, int]:
    """The summed NLL of all scored tokens and their number; divide by that of the whole batch."""
    return -torch.cat(list(answers)).sum(), sum(len(answer) for answer in answers)
