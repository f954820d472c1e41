"""Attention over packed rows in which several continuations share one prefix.

A packed row is a sequence of segments `[prefix; continuation 1; ...; continuation k]`. The prefix attends
causally to itself. Each continuation attends to its prefix and causally to itself, and to nothing else. A
*layout* describes the segments: an integer tensor [1, 1, num_segments, 1 + max_continuations] of lengths,
padded with zeros, which the model receives as its `attention_mask`. transformers passes a 4-d mask to the
attention function unchanged, so the layout reaches every layer of every family without changes to its code.

Some families have additional rules: sliding windows, or frames whose tokens attend to each other in both
directions. `make_masks` calls the family's own code for masks, as generation does. Layers with such a rule
get a mask of the whole row instead of the layout.

    L: tokens of the row   P: tokens of one prefix   A: tokens of all its continuations
    H: heads   D: head size
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

#: The name (`attn_implementation`) of `shared_prefix_attention` in transformers.
NAME = "shared_prefix"

#: The layout of the row whose masks are being made; None while masks are made for plain batches.
_LAYOUT: ContextVar[Tensor | None] = ContextVar("layout", default=None)


def make_layout(segments: Sequence[tuple[int, ...]]) -> Tensor:
    """The layout of segments given as (prefix length, continuation lengths...); int64 on the CPU."""
    rows = [torch.tensor(lengths) for lengths in segments]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None, None]


def segments_of(layout: Tensor) -> list[tuple[int, ...]]:
    """The (prefix length, continuation lengths...) of each segment."""
    return [tuple(n for n in lengths if n) for lengths in layout[0, 0].tolist()]


def is_layout(mask: Tensor | None) -> bool:
    """Whether a mask is a layout. A prepared 4-d mask is boolean or floating-point."""
    return mask is not None and mask.ndim == 4 and mask.dtype == torch.int64


def make_masks(
    model: Any, layout: Tensor, *, device: torch.device, token_types: Mapping[str, Tensor]
) -> Tensor | dict[str, Tensor]:
    """The `attention_mask` of a row for a model without a PEFT wrapper: the layout, or masks for it.

    Masks are a dict by type of layer if the types differ. Layers without attention also get the layout.
    `token_types` are the row's inputs with one entry per token.
    """
    from transformers.masking_utils import create_masks_for_generate

    make = getattr(model, "create_masks_for_generate", create_masks_for_generate)
    length = int(layout.sum())
    token = _LAYOUT.set(layout)
    try:
        masks = make(
            config=model.config,
            inputs_embeds=torch.empty(1, length, 0, device=device),
            attention_mask=torch.ones(1, length, dtype=torch.int64, device=device),
            past_key_values=None,
            position_ids=None,
            **token_types,
        )
    finally:
        _LAYOUT.reset(token)
    if not isinstance(masks, dict):
        return masks  # type: ignore[no-any-return]
    if all(mask is layout for mask in masks.values()):
        return layout
    return {kind: layout if mask is None else mask for kind, mask in masks.items()}


def shared_prefix_mask(
    *,
    mask_function: Callable[..., Tensor],
    device: torch.device,
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """The mask of one type of layer for the row of `make_masks`: its layout, or boolean [1, 1, L, L].

    `mask_function` is the family's rule: which key each query attends to in a plain sequence, by index.
    Without a row, this returns transformers' mask for SDPA.
    """
    from transformers.masking_utils import sdpa_mask

    layout = _LAYOUT.get()
    if layout is None:
        options = {"allow_is_causal_skip": allow_is_causal_skip, "local_size": local_size, "device": device}
        return sdpa_mask(mask_function=mask_function, **options, **kwargs)  # type: ignore[no-any-return]
    longest = max(prefix + max(answers, default=0) for prefix, *answers in segments_of(layout))
    if allow_is_causal_skip and (local_size is None or longest <= local_size):
        return layout
    # Each token's index in a plain sequence of its prefix and continuation that starts with the prefix.
    index, segment, owner = list[int](), list[int](), list[int]()
    for number, (prefix, *answers) in enumerate(segments_of(layout)):
        start = len(index)
        for answer, length in enumerate([prefix, *answers]):
            first = start + (prefix if answer else 0)
            index += range(first, first + length)
            segment += [number] * length
            owner += [answer] * length
    index_L, segment_L, owner_L = (torch.tensor(row, device=device) for row in (index, segment, owner))
    shares_LL = (owner_L[None, :] == 0) | (owner_L[:, None] == owner_L[None, :])
    is_own_LL = shares_LL & (segment_L[:, None] == segment_L[None, :])
    return (is_own_LL & mask_function(0, 0, index_L[:, None], index_L[None, :]))[None, None]


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output [1, L, H, D] of a row with a layout; plain SDPA for any other mask."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attend = functools.partial(sdpa_attention_forward, module, **kwargs)
    if attention_mask is None or not is_layout(attention_mask):
        return attend(query, key, value, attention_mask)  # type: ignore[no-any-return]
    segments = [(prefix, _blocks(prefix, answers)) for prefix, *answers in segments_of(attention_mask)]
    # split instead of slices: its backward is one concatenation, not one full-size sum per piece.
    sizes = [size for prefix, blocks in segments for size in (prefix, *map(sum, blocks))]
    assert sum(sizes) == query.shape[2], "layout and row differ in length"
    parts = zip(*(iter(tensor.split(sizes, dim=2)) for tensor in (query, key, value)), strict=True)
    outputs = []
    for prefix, blocks in segments:
        query_P, key_P, value_P = next(parts)
        outputs.append(attend(query_P, key_P, value_P, None)[0])
        for answers in blocks:
            query_A, key_A, value_A = next(parts)
            mask = _continuation_mask(prefix, answers, query.device)
            keys, values = torch.cat([key_P, key_A], dim=2), torch.cat([value_P, value_A], dim=2)
            outputs.append(attend(query_A, keys, values, mask)[0])
    return torch.cat(outputs, dim=1), None


def _blocks(prefix: int, answers: Sequence[int]) -> list[tuple[int, ...]]:
    """The lengths of answers that attend in one call: all, or one each if the prefix is shorter than all.

    One call for all also computes the masked scores between answers. One call each copies the prefix.
    """
    if not answers or prefix < sum(answers):
        return [(answer,) for answer in answers]
    return [tuple(answers)]


@functools.lru_cache(maxsize=8)
def _continuation_mask(prefix: int, answers: tuple[int, ...], device: torch.device) -> Tensor:
    """Which of the P + A keys each of the A continuation tokens attends to: boolean [1, 1, A, P + A].

    Cached because every layer needs the same mask, and the backward pass under checkpointing needs it again.
    The cache is small because a mask for 11.5k prompt and 1.2k answer tokens takes 15 MB on the device.
    """
    own_AA = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in answers))
    shared_AP = torch.ones(len(own_AA), prefix, dtype=torch.bool)
    return torch.cat([shared_AP, own_AA], dim=1)[None, None].to(device)
