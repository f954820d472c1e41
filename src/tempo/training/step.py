"""The step itself: one vision pass per video for policy and reference, one packed row for all answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempo.config import PhaseConfig
from tempo.model.features import FeatureStore
from tempo.model.prefix import Group, encode_videos, language_model, log_probs
from tempo.training.adapters import Policy
from tempo.training.clock import Clock
from tempo.training.groups import Label
from tempo.training.losses import Metrics, dpo_terms, sft_loss

#: Per group and continuation, token log-probabilities [num_scored].
LogProbs = list[list[Tensor]]


class Step(nn.Module):
    """A policy as one module whose forward is all that a training step computes.

    What wraps modules for several processes (DDP, FSDP, DeepSpeed) sees one call per packed row.
    """

    def __init__(
        self, policy: Policy, phase: PhaseConfig, clock: Clock, features: FeatureStore | None = None
    ) -> None:
        super().__init__()
        self.model = policy.model
        self._policy = policy
        self._phase = phase
        self._clock = clock
        self._features = features
        # A part of this module, so that FSDP shards it too.
        self.frozen_copy = policy.frozen_copy
        # FSDP asks the outermost module which layers to gather one by one. Not those of a vision tower, which
        # runs once for some rows and once per video for others: a process that gathers waits for the rest.
        self._no_split_modules = sorted({type(layer).__name__ for layer in language_model(self.model).layers})

    def forward(self, row: Sequence[Group], known: LogProbs | None = None) -> tuple[LogProbs, LogProbs]:
        """Log-probabilities under policy and reference; the latter are `known`, or empty for SFT."""
        with autocast(self._policy.parameters[0].device, self._policy.dtype):
            return self._score(row, known)

    def _score(self, row: Sequence[Group], known: LogProbs | None) -> tuple[LogProbs, LogProbs]:
        with self._clock("vision"):
            features = self._encode(row)
        reference = known or []
        if self._phase.objective == "dpo" and known is None:
            with self._policy.reference() as model:
                reference = log_probs(model, row, video_features=self._for_reference(features))
        return log_probs(self.model, row, video_features=features), reference

    def _encode(self, row: Sequence[Group]) -> dict[str, Any] | None:
        if self._features is not None:
            return self._features.encode(self.model, row)
        with torch.set_grad_enabled(self._policy.trains_vision and torch.is_grad_enabled()):
            return encode_videos(self.model, row)

    def _for_reference(self, features: dict[str, Any] | None) -> dict[str, Any] | None:
        """The policy's own features where the tower is frozen; a trained tower has another reference."""
        return None if self._policy.trains_vision else features


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Products in `dtype`, where trained weights in float32 beside a half-precision model would rule."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def row_loss(
    answers: LogProbs, reference: LogProbs, labels: Sequence[Sequence[Label]], phase: PhaseConfig
) -> tuple[Tensor, Metrics]:
    """Summed loss of one packed row over its pairs (DPO) or tokens (SFT), and its metrics.

    `labels` hold, per group, kind and level of each rejected answer; they may be empty.
    """
    metrics = Metrics()
    if phase.objective == "sft":
        return sft_loss([answer for group in answers for answer in group])[0], metrics
    total = answers[0][0].new_zeros(())
    for own, other, marks in zip(answers, reference, labels, strict=True):
        terms = dpo_terms(
            own,
            [logp.to(own[0].device) for logp in other],
            beta=phase.beta,
            nll_weight=phase.nll_weight,
            loss=phase.loss,
            label_smoothing=phase.label_smoothing,
            length=phase.logp_reduction,
            ld_alpha=phase.ld_alpha,
            labels=marks,
        )
        total = total + terms.loss
        metrics.add(terms.metrics)
    return total, metrics
