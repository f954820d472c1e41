"""Shared-prefix attention in a loaded model: which models support it, and a numerical check.

The self-check compares it with the duplicated form, one full sequence and one vision pass per continuation,
which is computed before the model is changed.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempo.model import recurrent
from tempo.model.attention import NAME, shared_prefix_attention, shared_prefix_mask
from tempo.model.chat import Prefix, VideoLM
from tempo.model.prefix import (
    ContinuationTokens,
    Group,
    inner_model,
    language_model,
    packed_log_probs,
    token_types,
)

#: The types of layers that packed rows support. Others are refused: their masks are unknown.
_SUPPORTED = {"full_attention", "sliding_attention", *recurrent.KINDS}

#: Largest value of `self_check` that rounding alone can cause. Both forms add the same numbers in a different
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

    _refuse(model, _unsupported(model))
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, shared_prefix_mask)
    text_config = model.config.get_text_config()
    name = next(n for n in model.config.sub_configs if getattr(model.config, n, None) is text_config)
    model.set_attn_implementation({name: NAME})
    try:
        recurrent.branch_mixers(language_model(model))
    except ValueError as error:
        _refuse(model, str(error), error)


def check_processor(processor: Any) -> None:
    """Raises ValueError that names the processor's class and the reason if it is not supported."""
    for part in ("tokenizer", "video_processor", "chat_template"):
        if getattr(processor, part, None) is None:
            _refuse(processor, f"it has no {part}, which is needed to turn frames and text into a prompt")


def _refuse(part: Any, reason: str | None, cause: Exception | None = None) -> None:
    if reason:
        raise ValueError(
            f"model.path: {type(part).__name__} cannot be used: {reason}. Use a checkpoint of another family"
        ) from cause


def _unsupported(model: Any) -> str | None:
    """The reason why packed rows do not support a model; None if they do."""
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder, and the shared prefix needs one causal sequence"
    if not hasattr(model, "model") or language_model(model) is inner_model(model):
        return "its class has no `model` with a vision tower and a language model separate from the head"
    parameters = inspect.signature(inner_model(model).forward).parameters
    if "mm_encoder_outputs" not in parameters:
        return "its forward has no mm_encoder_outputs, so several answers cannot share one encoded video"
    if "token_type_ids" in parameters:
        return "its prompt attends in both directions (token_type_ids), and the shared prefix is causal"
    text = type(language_model(model))
    if not (text._supports_sdpa and text._can_set_attn_implementation()):
        return f"the attention of its language model ({text.__name__}) cannot be replaced by SDPA"
    config = model.config.get_text_config()
    kinds = {*(getattr(config, "layer_types", None) or [])} - _SUPPORTED
    if any("index" in kind or "sparse" in kind for kind in kinds):
        return (
            f"its {sorted(kinds)} layers let a query attend to the k keys with the highest scores, and "
            "in a packed row the keys of other answers would compete"
        )
    if kinds:
        return f"it has {sorted(kinds)} layers, and the shared prefix supports {sorted(_SUPPORTED)}"
    softcap = getattr(config, "attn_logit_softcapping", None)
    if softcap is not None:
        return f"its attention scores are capped (attn_logit_softcapping = {softcap}); SDPA cannot do this"
    return None


def duplicated_log_probs(
    model: Any, groups: Sequence[Group], *, answer_logits_only: bool = False
) -> list[list[Tensor]]:
    """The result of `packed_log_probs`, computed as in other trainers: one full sequence per continuation.

    `answer_logits_only` skips the logits of the prompt (gigabytes for a long video) if the model can.
    """
    keep = answer_logits_only and "logits_to_keep" in inspect.signature(model.forward).parameters
    return [[_score(model, group, c, keep) for c in group.continuations] for group in groups]


def _score(model: Any, group: Group, continuation: ContinuationTokens, answer_logits_only: bool) -> Tensor:
    """Log-probabilities [num_scored] of one continuation after its own copy of the prefix."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([continuation.token_ids])
    inputs = {name: value.clone() for name, value in group.inputs.items()}
    more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    more |= dict.fromkeys(token_types(inputs), torch.zeros_like(tokens))
    for name in more.keys() & inputs.keys():
        inputs[name] = torch.cat([inputs[name], more[name].to(inputs[name])], dim=1)
    keep = {"logits_to_keep": tokens.shape[1] + 1} if answer_logits_only else {}
    output = model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False, **keep)
    logits = output.logits[0, -tokens.shape[1] - 1 : -1].float()
    logp: Tensor = logits.log_softmax(dim=-1).gather(1, tokens[0, :, None].to(device))[:, 0]
    return logp[continuation.num_context :]


def prepare(lm: VideoLM) -> None:
    """Applies `use_shared_prefix` to a loaded model, and checks that its log-probabilities do not change.

    Raises ValueError that names the model's class and the reason, also if the model fails on a packed row.
    """
    _refuse(lm.model, _unsupported(lm.model))
    try:
        groups = _example_groups(lm)
        with torch.no_grad():
            expected = duplicated_log_probs(lm.model, groups, answer_logits_only=True)
        use_shared_prefix(lm.model)
        self_check(lm.model, groups, expected)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if str(error).startswith("model.path"):
            raise
        _refuse(lm.model, f"it fails on two short videos ({type(error).__name__}: {error})", error)


def _example_groups(lm: VideoLM) -> list[Group]:
    """Two videos of equal size and different content, with two answers each."""
    # Not a multiple of the patch size, so that processors that do not resize frames fail here.
    size = (60, 90)
    generator = np.random.default_rng(0)
    answers = ("First a red ball rolls away, then a door opens slowly.", "A door opens.")
    videos = (generator.integers(0, 256, (8, *size, 3), dtype=np.uint8) for _ in range(2))
    return [lm.group(Prefix(video, "Describe the video in order.", fps=2.0), answers) for video in videos]


@torch.no_grad()
def self_check(
    model: Any, groups: Sequence[Group], expected: Sequence[Sequence[Tensor]] | None = None
) -> float:
    """The largest relative difference of the shared prefix, with all groups in one row, from `expected`.

    `expected` are the `duplicated_log_probs` of the groups, computed here if None. For a continuation the
    difference is the norm of the token differences, divided by that of the expected log-probabilities or by
    the root of their number, whichever is larger: the largest token difference would be an outlier in half
    precision. Two groups reveal whether one attends to the other; so do two continuations of a group.
    Raises ValueError with the figures if the difference exceeds `TOLERANCES`.
    """
    was_training = model.training
    model.eval()
    packed = packed_log_probs(model, groups)
    duplicated = expected or duplicated_log_probs(model, groups, answer_logits_only=True)
    model.train(was_training)
    differences = [
        (ours - theirs).double().norm() / theirs.double().norm().clamp(min=len(theirs) ** 0.5)
        for row, other in zip(packed, duplicated, strict=True)
        for ours, theirs in zip(row, other, strict=True)
    ]
    difference, tolerance = float(torch.stack(differences).max()), TOLERANCES[model.dtype]
    # Not `>`, because NaN must fail.
    if not difference <= tolerance:
        raise ValueError(
            f"model.path: {type(model).__name__} gives different log-probabilities with a shared prefix than "
            f"with one sequence per answer (relative difference {difference:.2g}, tolerance {tolerance:g} in "
            f"{model.dtype}). Training would be wrong. Use a checkpoint of another family"
        )
    return difference
