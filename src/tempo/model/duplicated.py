"""The plain form: one full sequence `[video; prompt; continuation]`, and one vision pass, per continuation.

It is what other trainers do, and what the shared prefix must equal. Only the tests, the benchmarks and the
self-check of a run compute with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempo.model.prefix import Continuation, Group

#: Inputs that have one entry per token, and what fills them in for a continuation's text.
_PER_TOKEN = {"attention_mask": 1, "mm_token_type_ids": 0}


def duplicated_log_probs(
    model: Any, groups: Sequence[Group], *, answer_logits_only: bool = False
) -> list[list[Tensor]]:
    """What `log_probs` returns, computed the plain way.

    `answer_logits_only` spares the [prompt x vocabulary] logits, gigabytes with a long video, where the model
    can leave them out.
    """
    return [
        [_score(model, group, c, answer_logits_only=answer_logits_only) for c in group.continuations]
        for group in groups
    ]


def _score(model: Any, group: Group, continuation: Continuation, *, answer_logits_only: bool) -> Tensor:
    """Log-probabilities [num_scored] of one continuation after its own copy of the prefix."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([continuation.token_ids])
    inputs = {name: value.clone() for name, value in group.inputs.items()}
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    for name, filler in _PER_TOKEN.items():
        if name in inputs:
            more = torch.full_like(tokens, filler).to(inputs[name])
            inputs[name] = torch.cat([inputs[name], more], dim=1)
    options: dict[str, Any] = {"use_cache": False}
    if answer_logits_only and "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = tokens.shape[1] + 1
    output = model(**{name: value.to(device) for name, value in inputs.items()}, **options)
    logits = output.logits[0, -len(continuation.token_ids) - 1 : -1].float()
    logp: Tensor = logits.log_softmax(dim=-1).gather(1, tokens[0, :, None].to(device))[:, 0]
    return logp[continuation.num_context :]
