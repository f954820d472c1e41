"""Which models the shared prefix can serve; any other is refused by name, with the reason, at loading."""

from __future__ import annotations

import inspect
from typing import Any

from tempo.model.prefix import inner_model, language_model

#: Settings that change the logits after the head, which `log_probs` would not see, and where they do nothing.
_AFTER_HEAD = {"final_logit_softcapping": None, "logit_scale": 1, "logits_scaling": 1}


def check_support(model: Any) -> None:
    """Raises ValueError that names the model's class and the reason if the shared prefix cannot serve it."""
    for check in (_structure, _vision, _attention, _head):
        _refuse(model, check(model))


def check_processor(processor: Any) -> None:
    """Raises ValueError that names the processor's class and the reason if frames cannot be given to it."""
    for part in ("tokenizer", "video_processor", "chat_template"):
        if getattr(processor, part, None) is None:
            _refuse(processor, f"it has no {part}, so frames and words do not become a prompt")


def _refuse(part: Any, reason: str | None) -> None:
    if reason:
        raise ValueError(
            f"model.path: {type(part).__name__} cannot be used: {reason}; give another checkpoint"
        )


def _structure(model: Any) -> str | None:
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder, and the shared prefix needs one causal sequence"
    if not hasattr(model, "model") or model.get_output_embeddings() is None:
        return "it does not keep its body (`model`) apart from its head"
    if language_model(model) is inner_model(model):
        return "it does not keep its language model apart from its vision tower"
    return None


def _vision(model: Any) -> str | None:
    core = inner_model(model)
    if not hasattr(core, "get_video_features") and not hasattr(core, "get_image_features"):
        return "it has neither get_video_features nor get_image_features, so it sees no video"
    parameters = inspect.signature(core.forward).parameters
    if "mm_encoder_outputs" not in parameters:
        return (
            "its forward takes no mm_encoder_outputs, so a video cannot be encoded once for several answers"
        )
    if "token_type_ids" in parameters:
        return "its prompt attends in both directions (token_type_ids), and the shared prefix is causal"
    return None


def _attention(model: Any) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has {sorted(kinds)} layers, and the shared prefix needs full attention throughout"
    window = getattr(config, "sliding_window", None)
    if window is not None and not getattr(config, "layer_types", None):
        return f"its attention has a sliding window (sliding_window = {window}), not the whole prefix"
    softcap = getattr(config, "attn_logit_softcapping", None)
    if softcap is not None:
        return f"its attention scores are capped (attn_logit_softcapping = {softcap}), which SDPA cannot do"
    text = type(language_model(model))
    if not (text._supports_sdpa and text._can_set_attn_implementation()):
        return f"its language model ({text.__name__}) does not let its attention be replaced by SDPA"
    return None


def _head(model: Any) -> str | None:
    config = model.config.get_text_config()
    for name, idle in _AFTER_HEAD.items():
        value = getattr(config, name, idle)
        if value not in (None, idle):
            return f"it changes its logits after the head ({name} = {value})"
    return None
