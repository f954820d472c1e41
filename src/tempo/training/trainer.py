"""Optimizer steps of a phase in all processes, which hold copies (DDP) or shards (FSDP2) of the weights."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tempo.config import DpoPhase, GrpoPhase, PhaseConfig, SftPhase
from tempo.core.files import replace_file
from tempo.core.hashing import derive_seed
from tempo.engine.ranks import make_accelerator, num_processes, process_rank
from tempo.training.examples import Example, pack_rows
from tempo.training.grpo import grpo_loss
from tempo.training.losses import dpo_loss, sft_loss
from tempo.training.metrics import Metrics
from tempo.training.order import Batch
from tempo.training.policy import LogProbs, Policy


class Trainer:
    """Trains a policy with AdamW and a cosine schedule. Every process must make every call."""

    def __init__(
        self, policy: Policy, phase: PhaseConfig, *, num_steps: int, seed: int, max_tokens: int
    ) -> None:
        from transformers import get_cosine_schedule_with_warmup

        self._policy, self._phase = policy, phase
        self._seed, self._max_tokens = seed, max_tokens
        #: For each packed row of a GRPO step, its log-probabilities before the first update.
        self._old: dict[int, LogProbs] = {}
        self.num_steps_done = 0
        #: The margin of each pair of the last step, by id.
        self.margins: dict[str, float] = {}
        trained = list(policy.trained.values())
        device = trained[0].device.type
        self._accelerator = make_accelerator(device, find_unused_parameters=phase.trains_vision)
        self._adam = torch.optim.AdamW(trained, lr=phase.learning_rate, weight_decay=0.0)
        # The first step of a warm-up has rate 0, so a phase of a single step has no warm-up.
        num_warmup = min(math.ceil(phase.warmup_share * num_steps), num_steps - 1)
        self._schedule = get_cosine_schedule_with_warmup(self._adam, num_warmup, num_steps)
        self._module, self._optimizer = self._accelerator.prepare(policy, self._adam)

    def step(self, batch: Batch) -> dict[str, float]:
        """Takes one optimizer step, or `num_updates`; `batch` has this process's share of the examples.

        Returns the metrics of all processes together, those of losses from the last update. Raises ValueError
        if the loss or its gradient is not finite.
        """
        start = time.perf_counter()
        torch.manual_seed(derive_seed(self._seed, self._phase.name, "step", self.num_steps_done + 1))
        self._old = {}
        for _ in range(getattr(self._phase, "num_updates", 1)):
            metrics = self._accumulate(batch)
            row = metrics.means() | {"learning_rate": self._schedule.get_last_lr()[0]}
            norm = self._accelerator.clip_grad_norm_(self._policy.trained.values(), self._phase.max_grad_norm)
            row["grad_norm"] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
            if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
                found = f"the loss is {row['loss']:g} and the norm of its gradient {row['grad_norm']:g}"
                raise ValueError(f"phase {self._phase.name!r}: {found}. Lower its learning_rate")
            self._optimizer.step()
            self._optimizer.zero_grad()
        self._schedule.step()
        self.num_steps_done += 1
        self.margins = metrics.margins
        seconds = time.perf_counter() - start + batch.waiting_seconds
        return row | {
            "step": self.num_steps_done,
            "seconds": seconds,
            "seconds/waiting": batch.waiting_seconds,
            f"{unit_of(self._phase)}_per_second": metrics.sums["loss"][1] / seconds,
        }

    def save(self, path: Path) -> None:
        """Writes weights, optimizer and schedule to a file atomically.

        Sharded tensors are written in full, so that any number of processes can resume from them.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self._policy.trained.items():
            adam = self._adam.state.get(parameter, {})
            state |= {f"weight/{name}": parameter} | {f"{kind}/{name}": value for kind, value in adam.items()}
        tensors = self.full_tensors(state)
        place = {"step": self.num_steps_done, "schedule": self._schedule.state_dict()}
        if process_rank() == 0:
            with replace_file(path) as temporary:
                save_file(tensors, temporary, metadata={"place": json.dumps(place)})

    def restore(self, path: Path) -> None:
        """Restores the state that `save` wrote to `path`; changes nothing if there is no such file."""
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file, torch.no_grad():
            place, stored = json.loads(file.metadata()["place"]), set(file.keys())
            for name, parameter in self._policy.trained.items():
                parameter.copy_(_place_like(file.get_tensor(f"weight/{name}"), parameter))
                if f"step/{name}" in stored:
                    # AdamW counts its steps on the CPU.
                    self._adam.state[parameter] = {"step": file.get_tensor(f"step/{name}")} | {
                        kind: _place_like(file.get_tensor(f"{kind}/{name}"), parameter)
                        for kind in ("exp_avg", "exp_avg_sq")
                    }
        self._schedule.load_state_dict(place["schedule"])
        for group in self._adam.param_groups:
            group["lr"] = self._schedule.get_last_lr()[0]
        self.num_steps_done = int(place["step"])

    def _accumulate(self, batch: Batch) -> Metrics:
        """Adds the gradients of the batch's mean loss over its units (`unit_of`); returns all metrics.

        All processes call the model equally often, because sharded weights require it. A process with fewer
        rows repeats its first row with weight 0.
        """
        rows = pack_rows(batch.examples, max_tokens=self._max_tokens)
        groups = [] if batch.is_filler else [group.continuations for _, group in batch.examples]
        unit = unit_of(self._phase)
        own = sum(answer.num_scored if unit == "tokens" else 1 for answers in groups for answer in answers)
        own -= len(groups) if unit == "pairs" else 0
        shares, row_counts = zip(*gather_object([(own, len(rows))]), strict=True)
        total, num_rows = sum(shares), max(row_counts)
        metrics, loss_sum = Metrics({} if batch.is_filler else dict(batch.metrics.sums)), 0.0
        for number in range(num_rows):
            is_real = number < len(rows) and not batch.is_filler
            row = rows[number] if number < len(rows) else rows[0]
            # DDP synchronizes gradients in the last row. FSDP2 does so in every row, because
            # gradients that are not synchronized are not sharded.
            is_waiting = number < num_rows - 1 and not self._accelerator.is_fsdp2
            with self._accelerator.no_sync(self._module) if is_waiting else contextlib.nullcontext():
                policy, reference = self._module([group for _, group in row])
                if isinstance(self._phase, GrpoPhase):
                    present = [[logp.detach() for logp in group] for group in policy]
                    reference = self._old.setdefault(number, present)
                loss, found = phase_loss(self._phase, policy, reference, [example for example, _ in row])
                # Processes average their gradients, but the mean over the whole batch needs their sum.
                self._accelerator.backward(loss * (num_processes() * is_real / total))
            if is_real:
                metrics.add(found)
                loss_sum += float(loss.detach())
        metrics.count("loss", loss_sum, own)
        everywhere = Metrics()
        for part in gather_object([metrics]):
            everywhere.add(part)
        return everywhere

    def full_tensors(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gathers sharded tensors: returns all tensors in process 0, and an empty dict in the others."""
        full = {}
        for name, tensor in named.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if process_rank() == 0:
                # Moved to the CPU one by one, because all of them may not fit on the GPU.
                full[name] = whole.detach().cpu().contiguous()
        return full


def _place_like(full: Tensor, parameter: nn.Parameter) -> Tensor:
    """A full tensor on the device of a parameter, sharded as the parameter is."""
    moved = full.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(moved, parameter.device_mesh, parameter.placements)
    return moved


def unit_of(phase: PhaseConfig) -> Literal["pairs", "tokens", "answers"]:
    """What the loss of a step is the mean over."""
    if isinstance(phase, DpoPhase):
        return "pairs"
    return "answers" if isinstance(phase, GrpoPhase) and phase.loss_type == "grpo" else "tokens"


def phase_loss(
    phase: PhaseConfig, policy: LogProbs, reference: LogProbs, examples: Sequence[Example]
) -> tuple[Tensor, Metrics]:
    """The loss of one packed row under the options of a phase, summed over its units (`unit_of`).

    `examples` are those of the row's groups. For GRPO, `reference` is the policy that sampled the answers.
    """
    own, other = ([answer for group in groups for answer in group] for groups in (policy, reference))
    if isinstance(phase, SftPhase):
        return sft_loss(own, reduction="sum")
    if isinstance(phase, GrpoPhase):
        advantages = [value for example in examples for value in example.advantages]
        options = phase.model_dump(include={"loss_type", "epsilon", "epsilon_high"})
        return grpo_loss(own, other, advantages, **options)
    names = {"beta", "loss", "label_smoothing", "logp_reduction", "ld_alpha", "nll_weight"}
    options = phase.model_dump(include=names) | {"reduction": "sum"}
    total, metrics = policy[0][0].new_zeros(()), Metrics()
    for own, other, example in zip(policy, reference, examples, strict=True):
        loss, found = dpo_loss(own, other, **options, labels=example.labels, ids=example.pair_ids)
        total = total + loss
        metrics.add(found)
    return total, metrics
