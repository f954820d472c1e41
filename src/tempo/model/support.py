"""Shared-prefix attention in a loaded model: which models support it, and a check of its numbers.

The self-check compares it with the duplicated form, one full sequence and one vision pass per continuation.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempo.model.attention import NAME, shared_prefix_attention
from tempo.model.prefix import ContinuationTokens, Group, inner_model, language_model, packed_log_probs

#: Settings that change the logits after the head, where `packed_log_probs` would miss it, each with the value
#: that has no effect.
_AFTER_HEAD = {"final_logit_softcapping": None, "logit_scale": 1, "logits_scaling": 1}

#: Largest result of `self_check` that rounding alone explains. Both forms add the same numbers in a different
#: order, and the error grows with the square root of the depth. Measured on small random models of 2 and 28
#: layers: float32 1e-7 and 1.2e-7, bfloat16 9e-4 and 2.5e-3; float16 1e-4 with 2 layers. Each bound is at
#: least eight times that. Answers that attend to each other gave 0.28 on the trained embedded model, and 0.04
#: to 0.22 on random models with a short prefix.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def use_shared_prefix(model: Any) -> None:
    """Switches the language model, but not the vision tower, to shared-prefix attention.

    Raises ValueError with the model's class and the reason if the shared prefix does not support it.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    _refuse(model, _structure(model) or _text_settings(model))
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text_config = model.config.get_text_config()
    name = next(n for n in model.config.sub_configs if getattr(model.config, n, None) is text_config)
    model.set_attn_implementation({name: NAME})


def check_processor(processor: Any) -> None:
    """Raises ValueError that names the processor's class and the reason if it is not supported."""
    for part in ("tokenizer", "video_processor", "chat_template"):
        if getattr(processor, part, None) is None:
            _refuse(processor, f"it has no {part}, which is needed to turn frames and text into a prompt")


def _refuse(part: Any, reason: str | None) -> None:
    if reason:
        raise ValueError(
            f"model.path: {type(part).__name__} cannot be used: {reason}. Use a checkpoint of another family"
        )


def _structure(model: Any) -> str | None:
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder, and the shared prefix needs one causal sequence"
    if not hasattr(model, "model") or language_model(model) is inner_model(model):
        return "its language model is not separate from a vision tower"
    parameters = inspect.signature(inner_model(model).forward).parameters
    if "mm_encoder_outputs" not in parameters:
        return "its forward has no mm_encoder_outputs, so one encoded video cannot serve several answers"
    if "token_type_ids" in parameters:
        return "its prompt attends in both directions (token_type_ids), and the shared prefix is causal"
    text = type(language_model(model))
    if not (text._supports_sdpa and text._can_set_attn_implementation()):
        return f"the attention of its language model ({text.__name__}) cannot be replaced by SDPA"
    return None


def _text_settings(model: Any) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has {sorted(kinds)} layers, and the shared prefix needs full attention in every layer"
    window = getattr(config, "sliding_window", None)
    if window is not None and not getattr(config, "layer_types", None):
        return f"its attention has a sliding window (sliding_window = {window}) instead of the whole prefix"
    softcap = getattr(config, "attn_logit_softcapping", None)
    if softcap is not None:
        return f"its attention scores are capped (attn_logit_softcapping = {softcap}), which SDPA cannot do"
    for name, neutral in _AFTER_HEAD.items():
        value = getattr(config, name, neutral)
        if value not in (None, neutral):
            return f"it changes its logits after the head ({name} = {value})"
    return None


def duplicated_log_probs(
    model: Any, groups: Sequence[Group], *, answer_logits_only: bool = False
) -> list[list[Tensor]]:
    """The result of `packed_log_probs`, computed as other trainers do: one full sequence per continuation.

    `answer_logits_only` leaves out the logits of the prompt, gigabytes with a long video, if the model can.
    """
    keep = answer_logits_only and "logits_to_keep" in inspect.signature(model.forward).parameters
    return [[_score(model, group, c, keep) for c in group.continuations] for group in groups]


def _score(model: Any, group: Group, continuation: ContinuationTokens, answer_logits_only: bool) -> Tensor:
    """Log-probabilities [num_scored] of one continuation after its own copy of the prefix."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([continuation.token_ids])
    inputs = {name: value.clone() for name, value in group.inputs.items()}
    ones, zeros = torch.ones_like(tokens), torch.zeros_like(tokens)
    for name, more in (("input_ids", tokens), ("attention_mask", ones), ("mm_token_type_ids", zeros)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
    keep = {"logits_to_keep": tokens.shape[1] + 1} if answer_logits_only else {}
    output = model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False, **keep)
    logits = output.logits[0, -tokens.shape[1] - 1 : -1].float()
    logp: Tensor = logits.log_softmax(dim=-1).gather(1, tokens[0, :, None].to(device))[:, 0]
    return logp[continuation.num_context :]


@torch.no_grad()
def self_check(model: Any, group: Group) -> float:
    """The relative difference between shared prefix and duplicated form: the larger of two continuations.

    For a continuation it is the norm of the token differences, divided by that of the duplicated
    log-probabilities or by the root of their number, whichever is larger: the largest token difference would
    be an outlier in half precision. Two continuations are enough to notice if they attend to each other.
    Raises ValueError with the figures if the difference exceeds `TOLERANCES`.
    """
    pair = Group(group.inputs, group.continuations[:2])
    was_training = model.training
    model.eval()
    packed = packed_log_probs(model, [pair])[0]
    duplicated = duplicated_log_probs(model, [pair], answer_logits_only=True)[0]
    model.train(was_training)
    differences = [
        (ours - theirs).double().norm() / theirs.double().norm().clamp(min=len(theirs) ** 0.5)
        for ours, theirs in zip(packed, duplicated, strict=True)
    ]
    difference, tolerance = float(torch.stack(differences).max()), TOLERANCES[model.dtype]
    # Not `>`: NaN must fail.
    if not difference <= tolerance:
        raise ValueError(
            f"model.path: {type(model).__name__} gives different log-probabilities with a shared prefix than "
            f"with one sequence per answer (relative difference {difference:.2g}, tolerance {tolerance:g} in "
            f"{model.dtype}). Training would be wrong. Use a checkpoint of another family"
        )
    return difference
