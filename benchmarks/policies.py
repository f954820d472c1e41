"""The same LoRA for every form, and timed optimizer steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from harness import Measured, forget_peak, peak_megabytes

LORA = {"lora_rank": 32, "lora_alpha": 64}
LEARNING_RATE = 1e-4
BETA = 0.1


def make_policy(model: Any, objective: str = "dpo", *, checkpointing: bool = False) -> Any:
    """LoRA on the linear layers of the language model and a frozen tower, as in a phase of a run."""
    from tempo.config import DpoPhase, SftPhase
    from tempo.training.policy import Policy

    phase = (DpoPhase if objective == "dpo" else SftPhase)(
        name="bench",
        objective=objective,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=checkpointing,
        **LORA,
    )
    policy = Policy(model, phase, dtype=model.dtype)
    fill_adapters(policy.model)
    return policy


def fill_adapters(model: Any) -> None:
    """Fills both halves of every adapter with seeded values, the same in every form.

    With zeros, policy and reference would be equal: the first loss would be ln 2 and half of the gradients
    zero, even in a form that is wrong.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            std = 0.02 if "lora_B" in name else 1 / math.sqrt(parameter.shape[1])
            # Drawn on the CPU, so that every device gets the same values.
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * std)


def warm_up(lm: Any) -> None:
    """One forward and backward pass over a few words, to start threads and load kernels before timing."""
    words = lm.tokenizer("Describe the video.", return_tensors="pt")["input_ids"]
    lm.model(input_ids=words, use_cache=False).logits.sum().backward()
    lm.model.zero_grad(set_to_none=True)


def flat_gradient(parameters: Sequence[Any]) -> np.ndarray:
    """The gradients of all parameters as one vector."""
    import torch

    return torch.cat([parameter.grad.flatten().float().cpu() for parameter in parameters]).numpy().copy()


def take_steps(policy: Any, step: Callable[[], float], num_steps: int) -> Measured:
    """Takes steps with AdamW; measures seconds and losses, and gradient and peak memory of the first."""
    import torch

    parameters = list(policy.trained.values())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    seconds, losses = [], []
    before = forget_peak()
    for index in range(num_steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses.append(step())
        spent = time.perf_counter() - start
        if index == 0:
            gradient = flat_gradient(parameters)
        start = time.perf_counter()
        optimizer.step()
        seconds.append(spent + time.perf_counter() - start)
        if index == 0:
            peak = peak_megabytes() - before
    return Measured(tuple(seconds), peak, tuple(losses), gradient)
