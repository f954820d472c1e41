"""One phase: examples in their order, one optimizer step per batch, and a state to resume from.

What differs from a stock trainer is the forward pass (`PolicyAndReference`), which shares a prefix among
answers and a vision pass between policy and reference, and the order of examples.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempo.config import DpoPhase, PhaseConfig, SftPhase
from tempo.core.hashing import derive_seed
from tempo.engine.ranks import wait_for_all
from tempo.model.chat import VideoLM
from tempo.model.features import FeatureStore
from tempo.model.prefix import Group
from tempo.training.distributed import DistributedOptimizer
from tempo.training.examples import Example, Label, LoadedExample, pack_rows
from tempo.training.losses import dpo_loss, sft_loss
from tempo.training.metrics import Metrics, MetricsLog, read_metrics
from tempo.training.order import Batch, Curriculum, load_batches
from tempo.training.policy import LogProbs, Policy, PolicyAndReference, ReferenceStore
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class PhaseContext:
    """What a phase needs beside its examples."""

    frames: FrameStore
    seed: int
    #: Tokens of a packed row at most.
    max_tokens: int
    #: Where `metrics.jsonl`, and the state of a phase that was stopped, are kept.
    directory: Path
    checkpoint_minutes: float = 10.0
    #: Log-probabilities of the reference and features of the vision tower, if these are cached on disk.
    reference: ReferenceStore | None = None
    features: FeatureStore | None = None
    #: Loads the full weights that quantized or sharded ones were made from.
    load_full: Callable[[], VideoLM] | None = None
    #: Called with step, number of steps and metrics after each step.
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, num_steps, row: None
    #: Called with each warning, once.
    warn: Callable[[str], None] = lambda text: None


def train_phase(
    lm: VideoLM, phase: PhaseConfig, examples: Sequence[Example], context: PhaseContext
) -> VideoLM:
    """The model after the phase, LoRA merged. Writes the metrics of each step to `metrics.jsonl`.

    A phase that was stopped resumes from its last saved state, with the same numbers as without the stop.
    Raises ValueError if the loss or its gradient is not finite; the state that was saved last stays.
    """
    torch.manual_seed(derive_seed(context.seed, phase.name, "weights"))
    curriculum = Curriculum(examples, phase, seed=context.seed)
    trainer = Trainer(Policy(lm.model, phase), phase, context, num_steps=curriculum.num_batches)
    log = _resume(trainer, phase, context)
    batches = load_batches(
        itertools.islice(curriculum.batches(log.rows), len(log.rows), None),
        lambda example: example.load(lm, context.frames),
        rank=trainer.optimizer.rank,
        num_processes=trainer.optimizer.num_processes,
    )
    saved_at = time.perf_counter()
    for batch in batches:
        log.append(trainer.step(batch))
        context.progress(len(log.rows), curriculum.num_batches, log.rows[-1])
        for text in log.new_warnings():
            context.warn(text)
        is_due = time.perf_counter() - saved_at >= 60 * context.checkpoint_minutes
        # Clocks differ, and all processes must do the same.
        if any(trainer.optimizer.gather(is_due)):
            trainer.save()
            saved_at = time.perf_counter()
    return VideoLM(trainer.merged_model(), lm.processor)


def _resume(trainer: Trainer, phase: PhaseConfig, context: PhaseContext) -> MetricsLog:
    """Restores the state of a stopped phase, if there is one, and the metrics up to it."""
    path = context.directory / "metrics.jsonl"
    rows = read_metrics(path, trainer.restore())
    # No process may rewrite the file while another one reads it.
    wait_for_all()
    context.directory.mkdir(parents=True, exist_ok=True)
    return MetricsLog(path, phase, rows=rows, is_writer=trainer.optimizer.rank == 0)


class Trainer:
    """Trains a policy, one optimizer step per batch, in this process and those beside it."""

    def __init__(self, policy: Policy, phase: PhaseConfig, context: PhaseContext, *, num_steps: int) -> None:
        self._policy = policy
        self._phase = phase
        self._context = context
        self._num_steps_done = 0
        module = PolicyAndReference(policy, context.features, uses_reference=isinstance(phase, DpoPhase))
        self.optimizer = DistributedOptimizer(module, policy.model, phase=phase, num_steps=num_steps)

    def step(self, batch: Batch) -> dict[str, float]:
        """Takes one optimizer step on a batch, of which this process has its share.

        Returns the metrics of all processes together. Raises ValueError if the loss or its gradient is not
        finite; no weight changes then.
        """
        start = time.perf_counter()
        torch.manual_seed(derive_seed(self._context.seed, self._phase.name, "step", self._num_steps_done + 1))
        metrics = self._accumulate(batch)
        row = metrics.means()
        self._check_finite("loss", row["loss"])
        row["learning_rate"] = self.optimizer.learning_rate
        row["grad_norm"] = self.optimizer.step()
        # A finite loss may have a gradient that is not.
        self._check_finite("norm of the gradient", row["grad_norm"])
        self._num_steps_done += 1
        seconds = time.perf_counter() - start + batch.waiting_seconds
        unit = "pairs" if isinstance(self._phase, DpoPhase) else "tokens"
        return row | {
            "step": self._num_steps_done,
            "seconds": seconds,
            "seconds/waiting": batch.waiting_seconds,
            "seconds/decode": batch.decode_seconds,
            f"{unit}_per_second": metrics.sums["loss"][1] / seconds,
        }

    def save(self) -> None:
        """Saves weights, optimizer and schedule; all processes must call it."""
        self.optimizer.save(self._context.directory / "state", self._num_steps_done)

    def restore(self) -> int:
        """Restores what `save` saved and returns the number of steps taken, 0 without a saved state."""
        self._num_steps_done = self.optimizer.restore(self._context.directory / "state")
        return self._num_steps_done

    def merged_model(self) -> Any:
        """The plain model with the trained weights; all processes must call it.

        If weights are quantized or sharded, process 0 gets the full model and the others their own.
        """
        if self._context.load_full is None:
            return self._policy.merged()
        trained = self.optimizer.trained_weights()
        if self.optimizer.rank:
            return self._policy.model
        return self._policy.merged_into(self._context.load_full().model, trained)

    def _accumulate(self, batch: Batch) -> Metrics:
        """Adds the gradients of the batch's mean loss over pairs (DPO) or tokens (SFT); returns all metrics.

        All processes call the model equally often, as sharded weights need. One with fewer rows repeats its
        first row with weight 0.
        """
        rows = pack_rows(batch.examples, max_tokens=self._context.max_tokens)
        own = 0 if batch.is_filler else sum(_weight(item.group, self._phase) for item in batch.examples)
        shares, numbers_of_rows = zip(*self.optimizer.gather((own, len(rows))), strict=True)
        total, num_rows = sum(shares), max(numbers_of_rows)
        metrics, loss_sum = Metrics(), 0.0
        for number in range(num_rows):
            is_real = number < len(rows) and not batch.is_filler
            with self.optimizer.accumulate(is_last=number == num_rows - 1):
                loss, found = self._row_loss(rows[number] if number < len(rows) else rows[0])
                # Processes average their gradients, and the mean over the whole batch needs their sum.
                self.optimizer.backward(loss * (self.optimizer.num_processes * is_real / total))
            if is_real:
                metrics.add(found)
                loss_sum += float(loss.detach())
        metrics.count("loss", loss_sum, own)
        everywhere = Metrics()
        for sums in self.optimizer.gather(metrics.sums):
            everywhere.add(Metrics(sums))
        return everywhere

    def _row_loss(self, row: Sequence[LoadedExample]) -> tuple[Tensor, Metrics]:
        groups = [item.group for item in row]
        cached = None
        if self._context.reference is not None:
            cached = [self._context.reference.get(group) for group in groups]
        policy, reference = self.optimizer.module(groups, cached)
        return phase_loss(self._phase, policy, reference, [item.example.labels for item in row])

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"phase {self._phase.name!r}: the {name} is {value}. Lower its learning_rate")


def phase_loss(
    phase: PhaseConfig, policy: LogProbs, reference: LogProbs, labels: Sequence[Sequence[Label]]
) -> tuple[Tensor, Metrics]:
    """The loss of one packed row under the options of a phase, summed over pairs (DPO) or tokens (SFT).

    `labels` holds those of the rejected answers of each group; they may be empty.
    """
    if isinstance(phase, SftPhase):
        return sft_loss([answer for group in policy for answer in group], reduction="sum")
    total, metrics = policy[0][0].new_zeros(()), Metrics()
    for own, other, own_labels in zip(policy, reference, labels, strict=True):
        loss, found = dpo_loss(
            own,
            [answer.to(own[0].device) for answer in other],
            beta=phase.beta,
            loss=phase.loss,
            label_smoothing=phase.label_smoothing,
            logp_reduction=phase.logp_reduction,
            ld_alpha=phase.ld_alpha,
            nll_weight=phase.nll_weight,
            labels=own_labels,
            reduction="sum",
        )
        total = total + loss
        metrics.add(found)
    return total, metrics


def _weight(group: Group, phase: PhaseConfig) -> int:
    """What a group counts in the mean over the batch: its pairs, or its scored tokens."""
    if isinstance(phase, DpoPhase):
        return len(group.continuations) - 1
    return sum(continuation.num_scored for continuation in group.continuations)
