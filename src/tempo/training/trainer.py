"""One phase: lessons in a seeded order, packed rows, one optimizer step per batch.

A thin loop over accelerate: what differs from a stock trainer is the step itself, which shares a prefix among
answers and a vision pass between policy and reference, and that is most of the code.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempo.model.loading import VideoLM
from tempo.model.prefix import Group, encode_videos, log_probs
from tempo.sections import PhaseConfig
from tempo.seeds import derive_seed
from tempo.training.adapters import Policy
from tempo.training.groups import Lesson, pack_rows
from tempo.training.losses import dpo_terms, sft_loss
from tempo.video.frames import FrameStore


@dataclass
class Tally:
    """Sums over the rows of one batch."""

    count: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, loss: Tensor, metrics: dict[str, float]) -> None:
        """Adds one row's loss and metrics, already divided by the size of the batch."""
        self.loss += float(loss.detach())
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value


def train_phase(
    lm: VideoLM,
    phase: PhaseConfig,
    lessons: Sequence[Lesson],
    *,
    frames: FrameStore,
    seed: int,
    max_tokens: int,
    metrics_path: Path,
    progress: Callable[[int, int, dict[str, float]], None],
) -> VideoLM:
    """The model after the phase, LoRA merged; a row of metrics per step goes to `metrics_path`.

    Raises ValueError if the loss is not finite: the checkpoint before the phase is then the last good one.
    """
    torch.manual_seed(derive_seed(seed, phase.name, "weights"))
    num_steps = phase.epochs * math.ceil(len(lessons) / phase.batch_size)
    learner = Learner(Policy(lm.model, phase), phase, num_steps)
    metrics_path.parent.mkdir(parents=True, exist_ok=True)
    with metrics_path.open("w", encoding="utf-8") as log:
        for step, batch in enumerate(_batches(lessons, phase, seed), 1):
            start = time.perf_counter()
            row = learner.learn([lesson.group(lm, frames) for lesson in batch], max_tokens=max_tokens)
            row |= {"step": step, "seconds": time.perf_counter() - start}
            log.write(json.dumps({name: round(value, 6) for name, value in row.items()}) + "\n")
            log.flush()
            progress(step, num_steps, row)
    return VideoLM(learner.policy.merged(), lm.processor)


class Learner:
    """A policy with its optimizer and schedule: AdamW, cosine after a linear warm-up."""

    def __init__(self, policy: Policy, phase: PhaseConfig, num_steps: int) -> None:
        from accelerate import Accelerator
        from transformers import get_cosine_schedule_with_warmup

        self.policy = policy
        self.phase = phase
        on_cpu = policy.parameters[0].device.type == "cpu"
        self._accelerator = Accelerator(cpu=on_cpu)
        optimizer = torch.optim.AdamW(policy.parameters, lr=phase.learning_rate, weight_decay=0.0)
        # The rate is 0 at the first step of a warm-up: a phase of a single step would learn nothing.
        num_warmup = min(math.ceil(phase.warmup_share * num_steps), num_steps - 1)
        schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup, num_steps)
        self._optimizer, self._schedule = self._accelerator.prepare(optimizer, schedule)

    def learn(self, groups: Sequence[Group], *, max_tokens: int) -> dict[str, float]:
        """One optimizer step on a batch, and its metrics; raises ValueError if the loss is not finite."""
        row = _accumulate(self.policy, groups, self.phase, max_tokens, self._accelerator.backward)
        if not math.isfinite(row["loss"]):
            name, loss = self.phase.name, row["loss"]
            raise ValueError(f"phase {name!r}: the loss is {loss}; lower its learning_rate")
        norm = self._accelerator.clip_grad_norm_(self.policy.parameters, self.phase.max_grad_norm)
        row |= {"grad_norm": float(norm), "learning_rate": self._schedule.get_last_lr()[0]}
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return row


def _batches(lessons: Sequence[Lesson], phase: PhaseConfig, seed: int) -> Iterator[list[Lesson]]:
    for epoch in range(phase.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, phase.name, "order", epoch))
        order = torch.randperm(len(lessons), generator=generator).tolist()
        for start in range(0, len(order), phase.batch_size):
            yield [lessons[i] for i in order[start : start + phase.batch_size]]


def _accumulate(
    policy: Policy,
    groups: Sequence[Group],
    phase: PhaseConfig,
    max_tokens: int,
    backward: Callable[[Tensor], Any],
) -> dict[str, float]:
    """Accumulates the gradients of the batch's mean loss; the mean is over pairs (DPO) or tokens (SFT)."""
    tally = Tally()
    if phase.objective == "dpo":
        count = sum(len(group.continuations) - 1 for group in groups)
    else:
        count = sum(c.num_scored for group in groups for c in group.continuations)
    for row in pack_rows(groups, max_tokens=max_tokens):
        loss, metrics = (dpo_row if phase.objective == "dpo" else sft_row)(policy, row, phase)
        backward(loss / count)
        tally.add(loss / count, {name: value / count for name, value in metrics.items()})
    return {"loss": tally.loss, **tally.metrics}


def dpo_row(policy: Policy, row: Sequence[Group], phase: PhaseConfig) -> tuple[Tensor, dict[str, float]]:
    """Summed DPO loss and metrics of one packed row; a frozen tower sees each video once for both models."""
    shared = None
    if not policy.trains_vision:
        with torch.no_grad():
            shared = encode_videos(policy.model, row)
    with policy.reference() as reference_model:
        reference = log_probs(reference_model, row, video_features=shared)
    answers = log_probs(policy.model, row, video_features=shared)
    total = torch.zeros((), device=answers[0][0].device)
    metrics: dict[str, float] = {}
    for own, other in zip(answers, reference, strict=True):
        terms = dpo_terms(own, other, beta=phase.beta, nll_weight=phase.nll_weight)
        total = total + terms.loss
        metrics = {name: metrics.get(name, 0.0) + value for name, value in terms.metrics.items()}
    return total, metrics


def sft_row(policy: Policy, row: Sequence[Group], _: PhaseConfig) -> tuple[Tensor, dict[str, float]]:
    """Summed NLL of one packed row of questions and answers."""
    with torch.set_grad_enabled(policy.trains_vision):
        features = encode_videos(policy.model, row)
    answers = log_probs(policy.model, row, video_features=features)
    return sft_loss([answer for group in answers for answer in group])[0], {}
