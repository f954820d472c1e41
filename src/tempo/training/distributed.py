"""AdamW on weights that processes hold as copies (DDP) or in shards (FSDP2), and its state on disk.

Every process must make each call. A process alone makes the same calls, without communication.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tempo.config import PhaseConfig
from tempo.core.files import replace_directory
from tempo.engine.ranks import make_accelerator


class DistributedOptimizer:
    """AdamW and a cosine schedule over the trainable weights of `model`, in all processes together.

    `module`, of which `model` is a part, is what computes the loss. Names of weights are those in `model`.
    """

    def __init__(self, module: nn.Module, model: nn.Module, *, phase: PhaseConfig, num_steps: int) -> None:
        from transformers import get_cosine_schedule_with_warmup

        self._model = model
        self._max_grad_norm = phase.max_grad_norm
        trained = list(self._trained().values())
        self._accelerator = make_accelerator(
            trained[0].device.type, find_unused_parameters=phase.train_vision
        )
        if self._accelerator.is_fsdp2 and getattr(model, "is_quantized", False):
            raise ValueError("model.quantization: FSDP2 cannot shard four-bit weights. Use ddp.yaml")
        self._adam = torch.optim.AdamW(trained, lr=phase.learning_rate, weight_decay=0.0)
        # The first step of a warm-up has rate 0, so that a phase of a single step has none.
        num_warmup = min(math.ceil(phase.warmup_share * num_steps), num_steps - 1)
        self._schedule = get_cosine_schedule_with_warmup(self._adam, num_warmup, num_steps)
        #: `module`, to be called.
        self.module, self._optimizer = self._accelerator.prepare(module, self._adam)
        #: The number of this process, of which 0 writes files, and of all processes.
        self.rank, self.num_processes = self._accelerator.process_index, self._accelerator.num_processes

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around the forward and backward pass of one of several rows before a step.

        DDP exchanges gradients in the last row. FSDP2 does so in every row, because gradients that wait for
        the last row are not sharded.
        """
        if is_last or self._accelerator.is_fsdp2:
            return contextlib.nullcontext()
        return self._accelerator.no_sync(self.module)  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of the mean of `loss` over processes to the gradients of earlier rows."""
        self._accelerator.backward(loss)

    def step(self) -> float:
        """Clips the gradient, takes a step and clears the gradient; returns the norm before clipping.

        If the norm is not finite, no weight changes.
        """
        parameters = self._trained().values()
        norm = self._accelerator.clip_grad_norm_(parameters, self._max_grad_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(norm):
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._schedule.step()
        return norm

    def gather(self, data: Any) -> list[Any]:
        """A picklable object of every process, in order of rank."""
        from accelerate.utils import gather_object

        return list(gather_object([data]))

    def trained_weights(self) -> dict[str, Tensor]:
        """Name to full weight of everything trained, in process 0; empty in the others."""
        return self._full_tensors(self._trained().items())

    def save(self, path: Path, step: int) -> None:
        """Writes weights, optimizer and schedule after `step` into a directory that appears in one step.

        Sharded tensors are written in full, so that any number of processes can go on with them.
        """
        from safetensors.torch import save_file

        tensors = self._full_tensors(self._state())
        if self.rank:
            return
        with replace_directory(path) as directory:
            save_file(tensors, directory / "state.safetensors")
            place = {"step": step, "schedule": self._schedule.state_dict()}
            (directory / "place.json").write_text(json.dumps(place), encoding="utf-8")
            for file in directory.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())

    def restore(self, path: Path) -> int:
        """Restores what `save` wrote and returns its step; 0 if there is nothing to restore.

        After a kill during `save`, the state before may be there under its old name (`replace_directory`).
        """
        from safetensors import safe_open

        found = next((p for p in (path, path.with_name(f"{path.name}.old")) if p.exists()), None)
        if found is None:
            return 0
        with safe_open(found / "state.safetensors", framework="pt") as file, torch.no_grad():
            stored = set(file.keys())
            for name, parameter in self._trained().items():
                parameter.copy_(_place_like(file.get_tensor(f"weight/{name}"), parameter))
                kinds = [kind for kind in ("exp_avg", "exp_avg_sq") if f"{kind}/{name}" in stored]
                state = {kind: _place_like(file.get_tensor(f"{kind}/{name}"), parameter) for kind in kinds}
                if state:
                    # AdamW counts its steps on the CPU.
                    self._adam.state[parameter] = state | {"step": file.get_tensor(f"step/{name}")}
        place = json.loads((found / "place.json").read_text(encoding="utf-8"))
        self._schedule.load_state_dict(place["schedule"])
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate
        return int(place["step"])

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._trained().items():
            yield f"weight/{name}", parameter
            yield from (
                (f"{kind}/{name}", kept) for kind, kept in self._adam.state.get(parameter, {}).items()
            )

    def _full_tensors(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        full = {}
        for name, tensor in named:
            if isinstance(tensor, DTensor):
                # One by one to the CPU: all of them may be more than a GPU holds.
                tensor = tensor.full_tensor() if self.rank else tensor.full_tensor().cpu()
            if not self.rank:
                full[name] = tensor.detach().contiguous()
        return full

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}


def _place_like(full: Tensor, parameter: nn.Parameter) -> Tensor:
    """A full tensor on the device of a parameter, sharded as the parameter is."""
    moved = full.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)


def remove_state(path: Path) -> None:
    """Removes the state of a finished phase, whatever a kill left of it."""
    for suffix in ("", ".old", ".tmp"):
        shutil.rmtree(path.with_name(path.name + suffix), ignore_errors=True)
