"""How gradients become a step, whatever of weights and optimizer each process holds.

A copy of everything, or a part of everything (FSDP): accelerate's own way. Whole weights, but a part of the
gradients and the optimizer's state (DeepSpeed's ZeRO-2): its engine clips, steps and clears in one call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

#: What AdamW keeps for each weight, beside the number of its steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


class Updates(Protocol):
    """What `Learner` asks of either way; all processes must make each call."""

    #: The module to call.
    step: Any

    def row(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around the forward and backward pass of one row."""

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradient, averaged over processes, to that of the rows before."""

    def update(self) -> float:
        """Clips the gradient and takes the step unless it is not finite; the norm before, not finite then."""

    def kept(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        """What the optimizer keeps for a weight (moments, `step`), or parts of it; nothing before a step."""

    def put(self, parameter: nn.Parameter, weight: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Sets a weight and what the optimizer keeps for it, given as wholes on the CPU."""


def prepare(accelerator: Any, step: nn.Module, adam: torch.optim.AdamW, *, max_grad_norm: float) -> Updates:
    """The way that accelerate was told to go, with its parts in place."""
    if accelerator.distributed_type.name == "DEEPSPEED":
        return ZeroUpdates(accelerator, step, adam, max_grad_norm=max_grad_norm)
    return PlainUpdates(accelerator, step, adam, max_grad_norm=max_grad_norm)


class PlainUpdates:
    """One process, several with a copy of the weights each, or with a part of them each."""

    def __init__(
        self, accelerator: Any, step: nn.Module, adam: torch.optim.AdamW, *, max_grad_norm: float
    ) -> None:
        self._accelerator = accelerator
        self._adam = adam
        self._max_grad_norm = max_grad_norm
        self.step, self._optimizer = accelerator.prepare(step, adam)

    def row(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients go round once per step, with its last row; with every row where they stay in parts."""
        if is_last or self._accelerator.is_fsdp2:
            return contextlib.nullcontext()
        return self._accelerator.no_sync(self.step)  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """See `Updates`."""
        self._accelerator.backward(loss)

    def update(self) -> float:
        """See `Updates`."""
        parameters = [parameter for group in self._adam.param_groups for parameter in group["params"]]
        norm = self._accelerator.clip_grad_norm_(parameters, self._max_grad_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(norm):
            self._optimizer.step()
            self._optimizer.zero_grad()
        return norm

    def kept(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        """See `Updates`."""
        kept: Mapping[str, Tensor] = self._adam.state.get(parameter, {})
        return kept

    def put(self, parameter: nn.Parameter, weight: Tensor, kept: Mapping[str, Tensor]) -> None:
        """See `Updates`."""
        with torch.no_grad():
            parameter.copy_(_like(weight, parameter))
        # AdamW counts its steps on the CPU.
        self._adam.state[parameter] = {
            name: tensor if name == "step" else _like(tensor, parameter) for name, tensor in kept.items()
        }


def _like(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """A whole tensor where and how a parameter is: on its device, and in parts where that is."""
    moved = whole.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)


class ZeroUpdates:
    """DeepSpeed's engine around the step; the optimizer knows one flat part of all weights in its process."""

    def __init__(
        self, accelerator: Any, step: nn.Module, adam: torch.optim.AdamW, *, max_grad_norm: float
    ) -> None:
        accelerator.deepspeed_plugin.deepspeed_config |= {
            # Never looked at: tempo weighs its rows itself.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": max_grad_norm,
        }
        self._adam = adam
        self.step, _ = accelerator.prepare(step, adam)

    @contextlib.contextmanager
    def row(self, *, is_last: bool) -> Iterator[None]:
        """See `Updates`."""
        self.step.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: Tensor) -> None:
        """See `Updates`."""
        self.step.backward(loss)

    def update(self) -> float:
        """See `Updates`."""
        self.step.step()
        norm = float(self.step.get_global_grad_norm())
        # DeepSpeed passes such a step over, and says -1 for its norm.
        return math.nan if norm < 0 or self.step.optimizer.overflow else norm

    def kept(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        """See `Updates`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        part = self._adam.state.get(self._part(), {})
        if not part:
            return {}
        moments = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
        # Each its own: all weights have one count, and a file does not hold the same tensor twice.
        return moments | {"step": part["step"].clone()}

    def put(self, parameter: nn.Parameter, weight: Tensor, kept: Mapping[str, Tensor]) -> None:
        """See `Updates`."""
        from deepspeed.utils import safe_set_full_fp32_param

        with torch.no_grad():
            parameter.copy_(weight)
        safe_set_full_fp32_param(parameter, parameter.detach())
        if kept:
            self._put_kept(parameter._hp_mapping, kept)  # type: ignore[attr-defined]

    def _put_kept(self, place: Any, kept: Mapping[str, Tensor]) -> None:
        """Fills in what this process's optimizer knows of a weight; `place` is None where that is nothing."""
        part = self._part()
        own = self._adam.state[part]
        if not own:
            own |= {name: torch.zeros_like(part) for name in MOMENTS}
        own["step"] = kept["step"]
        if place is None:
            return
        there, here = place.lp_fragment_address, place.hp_fragment_address
        for name in MOMENTS:
            value = kept[name].flatten().narrow(0, there.start, there.numel)
            own[name].narrow(0, here.start, here.numel).copy_(value)

    def _part(self) -> Tensor:
        """This process's part of all weights, one after another."""
        return self._adam.param_groups[0]["params"][0]  # type: ignore[no-any-return]
