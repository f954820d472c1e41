"""Operations of a packed DPO step of a Qwen2.5-VL, and the peak rates of chips.

Counts what the loss and the LoRA gradients need, two operations per multiply-add, without what gradient
checkpointing computes again. With W weights and R LoRA weights in the linear layers of the language model, L
tokens of the row, S scored tokens, and N pairs of a token with one that it attends to:

    linear      2 W L for the reference, 2 (W + R) L for the policy, 2 (W + 2 R) L for its backward pass
    attention   4 N (query width) layers: once for the reference, once for the policy, twice for the backward
    head        2 (width) (vocabulary) S: once each for reference, policy and backward pass
    vision      2 x weights x patches + 4 x attended pairs x width, once: the tower is frozen
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Dense bfloat16 operations per second from the vendors' data sheets. The first name that is part of the
#: device's name applies.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
}


def peak_flops(device_name: str) -> float | None:
    """The chip's dense bfloat16 peak in operations per second; None if it is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def packed_step_flops(config: Any, lengths: Sequence[int], grid: Sequence[int], *, lora_rank: int) -> float:
    """Operations of one step: `lengths` of prefix and answers, `grid` of patches (time, height, width)."""
    return sum(step_parts(config, lengths, grid, lora_rank=lora_rank).values())


def step_parts(
    config: Any, lengths: Sequence[int], grid: Sequence[int], *, lora_rank: int
) -> dict[str, float]:
    """Operations of each part of one step, by the formulas of this module's docstring."""
    text = config.text_config
    weights, adapters = linear_weights(text, lora_rank)
    num_tokens, num_scored = sum(lengths), sum(lengths[1:])
    per_token = 2 * weights + 4 * (weights + adapters) + 2 * adapters
    query_width = text.num_attention_heads * head_size(text)
    attention = 4 * attended_pairs(lengths) * query_width * text.num_hidden_layers
    return {
        "linear": float(per_token * num_tokens),
        "attention": float(4 * attention),
        "head": float(3 * 2 * text.hidden_size * text.vocab_size * num_scored),
        "vision": float(vision_flops(config.vision_config, grid)),
    }


def head_size(text: Any) -> int:
    """The width of one attention head."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def linear_weights(text: Any, lora_rank: int) -> tuple[int, int]:
    """Weights of all linear layers of the language model, and of their adapters."""
    width, inner = text.hidden_size, text.intermediate_size
    query, key = (n * head_size(text) for n in (text.num_attention_heads, text.num_key_value_heads))
    shapes = [(width, query), (width, key), (width, key), (query, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    layers = text.num_hidden_layers
    weights = layers * sum(a * b for a, b in shapes)
    return weights, layers * lora_rank * sum(a + b for a, b in shapes)


def attended_pairs(lengths: Sequence[int]) -> int:
    """Pairs of a token and one it attends to: the prefix causally, an answer the prefix and itself."""
    prefix, *answers = lengths
    return prefix * (prefix + 1) // 2 + sum(n * prefix + n * (n + 1) // 2 for n in answers)


def vision_flops(vision: Any, grid: Sequence[int]) -> int:
    """Operations of one pass over a video: blocks attend within a time step, most within windows."""
    steps, height, width = grid
    patches = steps * height * width
    size, merge = vision.hidden_size, vision.spatial_merge_size**2
    block = 4 * size**2 + 3 * size * vision.intermediate_size
    embedding = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * size
    merger = (merge * size) ** 2 + merge * size * vision.out_hidden_size
    weights = (vision.depth * block + embedding) * patches + merger * patches // merge
    num_full = len(vision.fullatt_block_indexes)
    window = min((vision.window_size // vision.patch_size) ** 2, height * width)
    pairs = patches * (num_full * height * width + (vision.depth - num_full) * window)
    return 2 * weights + 4 * pairs * size
