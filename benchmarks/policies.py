"""What trains: the same LoRA for every form, and steps that are timed alike."""

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
    """LoRA on the language model's linear layers and a frozen tower, as a phase of a run has them."""
    from tempo.config import DpoPhase, SftPhase
    from tempo.training.policy import Policy

    phase = (DpoPhase if objective == "dpo" else SftPhase)(
        name="bench",
        objective=objective,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=checkpointing,
        **LORA,
    )
    policy = Policy(model, phase)
    fill_adapters(policy.model)
    return policy


def fill_adapters(model: Any) -> None:
    """Gives both halves of every adapter the same seeded values in every form.

    Not zero: with zeros policy and reference agree, every form's first loss is ln 2 and half of the gradients
    are zero, whatever else may be wrong.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            std = 0.02 if "lora_B" in name else 1 / math.sqrt(parameter.shape[1])
            # Drawn on the CPU, so that every device gets the same.
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * std)


def warm_up(lm: Any) -> None:
    """Forward and backward over a few words: threads and kernels are awake before anything is timed."""
    words = lm.tokenizer("Describe the video.", return_tensors="pt")["input_ids"]
    lm.model(input_ids=words, use_cache=False).logits.sum().backward()
    lm.model.zero_grad(set_to_none=True)


def flat_gradient(parameters: Sequence[Any]) -> np.ndarray:
    """The gradients of all parameters as one vector."""
    import torch

    return torch.cat([parameter.grad.flatten().float().cpu() for parameter in parameters]).numpy().copy()


def take_steps(policy: Any, step: Callable[[], float], num_steps: int) -> Measured:
    """Seconds and losses of steps with AdamW, gradient and peak memory of the first."""
    import torch

    parameters = policy.parameters
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
