"""A policy that learns: AdamW, cosine after a linear warm-up, gradients summed over rows and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tempo.config import PhaseConfig
from tempo.engine.ranks import make_accelerator
from tempo.model.features import FeatureStore
from tempo.model.prefix import Group
from tempo.training.adapters import Policy
from tempo.training.checkpoints import gather, load_state, save_state
from tempo.training.clock import Clock
from tempo.training.groups import pack_rows
from tempo.training.loader import Batch
from tempo.training.losses import Metrics
from tempo.training.reference import ReferenceStore
from tempo.training.step import LogProbs, Step, row_loss
from tempo.training.updates import prepare


class Learner:
    """One phase's policy, optimizer and schedule, in this process and those beside it."""

    def __init__(
        self, policy: Policy, phase: PhaseConfig, num_steps: int, features: FeatureStore | None = None
    ) -> None:
        from transformers import get_cosine_schedule_with_warmup

        self._policy = policy
        self._phase = phase
        self._clock = Clock()
        self._accelerator = make_accelerator(
            policy.parameters[0].device.type, find_unused_parameters=phase.train_vision
        )
        if self._accelerator.is_fsdp2 and getattr(policy.model, "is_quantized", False):
            raise ValueError("model.quantization: FSDP cannot share four-bit weights out; use ddp.yaml")
        self._adam = torch.optim.AdamW(policy.parameters, lr=phase.learning_rate, weight_decay=0.0)
        # The rate is 0 at the first step of a warm-up: a phase of a single step would learn nothing.
        num_warmup = min(math.ceil(phase.warmup_share * num_steps), num_steps - 1)
        self._schedule = get_cosine_schedule_with_warmup(self._adam, num_warmup, num_steps)
        step = Step(policy, phase, self._clock, features)
        self._updates = prepare(self._accelerator, step, self._adam, max_grad_norm=phase.max_grad_norm)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._accelerator.is_main_process)

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self._accelerator.process_index)

    @property
    def num_processes(self) -> int:
        """How many processes learn together."""
        return int(self._accelerator.num_processes)

    def merged(self) -> Any:
        """The plain model with what was learned in its weights."""
        return self._policy.merged()

    def merged_into(self, load_whole: Callable[[], Any]) -> Any:
        """The plain model that `load_whole` gives, with what was learned in its weights.

        For weights that are quantized or in parts. All processes must call it; the first, which writes, gets
        the plain model, the others their own.
        """
        learned = dict(gather(self._named_parameters(), keep=self.is_main))
        return self._policy.merged_into(load_whole(), learned) if self.is_main else self._policy.model

    def learn(
        self, batch: Batch, reference: ReferenceStore | None, *, max_tokens: int
    ) -> tuple[dict[str, float], Metrics]:
        """One optimizer step on a batch; its row of figures, and its metrics summed over all processes.

        Raises ValueError if the loss or its gradient is not finite; no weight is changed then.
        """
        self._clock.add("decode", batch.decode_seconds)
        self._clock.add("waiting", batch.waiting_seconds)
        with self._clock("all"):
            metrics = self._together(self._accumulate(batch, reference, max_tokens))
            row = metrics.means()
            self._refuse_infinite("loss", row["loss"])
            rate, norm = self._schedule.get_last_lr()[0], self._updates.update()
            # A loss may be finite and its gradient not: such a step would write it into every weight.
            self._refuse_infinite("norm of the gradient", norm)
            row |= {"grad_norm": norm, "learning_rate": rate}
            self._schedule.step()
        return row | self._speed(batch, metrics), metrics

    def _refuse_infinite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"phase {self._phase.name!r}: the {name} is {value}; lower its learning_rate")

    def _accumulate(self, batch: Batch, reference: ReferenceStore | None, max_tokens: int) -> Metrics:
        """Gradients of the batch's mean loss over pairs (DPO) or tokens (SFT), and this process's metrics.

        Every process calls the model equally often, as sharded weights need; one that has fewer rows
        repeats its first with weight 0.
        """
        labels = {id(group): lesson.labels for group, lesson in zip(batch.groups, batch.own, strict=True)}
        rows = pack_rows(batch.groups, max_tokens=max_tokens)
        own = sum(_weight(group, self._phase) for group in batch.groups) if not batch.is_filler else 0
        count, num_rows = self._sum(own), self._most(len(rows))
        metrics = Metrics()
        for number in range(num_rows):
            is_real = number < len(rows) and not batch.is_filler
            row = rows[number] if number < len(rows) else rows[0]
            with self._updates.row(is_last=number == num_rows - 1):
                known = _known(reference, row)
                answers, other = self._updates.step(row, known)
                loss, found = row_loss(answers, other, [labels[id(g)] for g in row], self._phase)
                # Processes average their gradients; the mean over all pairs needs their sum.
                self._updates.backward(loss * (self.num_processes * is_real / count))
            if is_real:
                metrics.add(found)
                metrics.count("loss", float(loss.detach()), 0)
        metrics.sums["loss"] = (metrics.sums.get("loss", (0.0, 0))[0], own)
        return metrics

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it: clocks differ, and all must do the same."""
        return bool(self._most(int(wish)))

    def _sum(self, number: int) -> int:
        return int(self._accelerator.reduce(torch.tensor(number, device=self._accelerator.device), "sum"))

    def _most(self, number: int) -> int:
        gathered = self._accelerator.gather(torch.tensor([number], device=self._accelerator.device))
        return int(gathered.max())

    def _together(self, metrics: Metrics) -> Metrics:
        """The metrics of all processes."""
        from accelerate.utils import gather_object

        total = Metrics()
        for sums in gather_object([metrics.sums]):
            total.add(Metrics(sums))
        return total

    def _speed(self, batch: Batch, metrics: Metrics) -> dict[str, float]:
        """Throughput of all processes, and where this one's time went, in seconds."""
        seconds = self._clock.take()
        computing = seconds.pop("all")
        whole = computing + seconds["waiting"]
        seconds["language_model"] = computing - seconds["vision"]
        unit = "pairs" if self._phase.objective == "dpo" else "tokens"
        groups = () if batch.is_filler else batch.groups
        visual = self._sum(sum(_visual_tokens(self._policy.model, group) for group in groups))
        return {
            f"{unit}_per_second": metrics.sums["loss"][1] / whole,
            "visual_tokens_per_second": visual / whole,
            **{f"seconds/{name}": spent for name, spent in seconds.items()},
        }

    def save(self, path: Path, place: Mapping[str, Any]) -> None:
        """Keeps weights, optimizer, schedule and `place`; all processes must call it."""
        kept = dict(place) | {"schedule": self._schedule.state_dict()}
        save_state(path, self._named_parameters(), self._updates, kept, writes=self.is_main)

    def restore(self, path: Path) -> dict[str, Any] | None:
        """Puts back what `save` kept and returns the place; None where nothing is."""
        place = load_state(path, self._named_parameters(), self._updates)
        if place is not None:
            schedule = place.pop("schedule")
            self._schedule.load_state_dict(schedule)
            for group, rate in zip(self._adam.param_groups, schedule["_last_lr"], strict=True):
                group["lr"] = rate
        return place

    def _named_parameters(self) -> Any:
        return [(n, p) for n, p in self._policy.model.named_parameters() if p.requires_grad]


def _weight(group: Group, phase: PhaseConfig) -> int:
    """What a group counts in the batch's mean: its pairs, or its scored tokens."""
    if phase.objective == "dpo":
        return len(group.continuations) - 1
    return sum(continuation.num_scored for continuation in group.continuations)


def _known(reference: ReferenceStore | None, row: Sequence[Group]) -> LogProbs | None:
    if reference is None:
        return None
    found = [reference.get(group) for group in row]
    assert all(found), "the reference store was filled with every group of the phase"
    return [logps for logps in found if logps]


def _visual_tokens(model: Any, group: Group) -> int:
    ids = {getattr(model.config, f"{kind}_token_id", None) for kind in ("video", "image")}
    return sum(int((group.inputs["input_ids"] == token).sum()) for token in ids if token is not None)
