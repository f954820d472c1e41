"""Attention over packed rows in which several continuations share one prefix.

A packed row is a sequence of segments `[prefix; continuation 1; ...; continuation k]`. The prefix attends
causally to itself. Each continuation attends to its prefix and causally to itself, and to nothing else. A
*layout* describes the segments: an integer tensor [1, 1, num_segments, 1 + max_continuations] of lengths,
padded with zeros, which the model receives as its `attention_mask`. transformers passes a 4-d mask to the
attention function unchanged, so the layout reaches every layer of every family without changes to its code.

    L: tokens of the row   P: tokens of one prefix   A: tokens of all its continuations
    H: heads   D: head size
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: The `attn_implementation` under which transformers knows `shared_prefix_attention`.
NAME = "shared_prefix"


def make_layout(segments: Sequence[tuple[int, ...]]) -> Tensor:
    """The layout of segments given as (prefix length, continuation lengths...); int64 on the CPU."""
    rows = [torch.tensor(lengths) for lengths in segments]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None, None]


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
    # A prepared mask, also 4-d, is boolean or of floating point.
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return attend(query, key, value, attention_mask)  # type: ignore[no-any-return]
    segments = [tuple(n for n in lengths if n) for lengths in attention_mask[0, 0].tolist()]
    assert sum(map(sum, segments)) == query.shape[2], "layout and row differ in length"
    # split instead of slices: its backward is one concatenation, not one full-size sum per piece.
    sizes = [size for prefix, *answers in segments for size in (prefix, sum(answers))]
    parts = zip(*(iter(tensor.split(sizes, dim=2)) for tensor in (query, key, value)), strict=True)
    outputs = []
    for prefix, *answers in segments:
        query_P, key_P, value_P = next(parts)
        query_A, key_A, value_A = next(parts)
        outputs.append(attend(query_P, key_P, value_P, None)[0])
        if answers:
            mask = _continuation_mask(prefix, tuple(answers), query.device)
            keys, values = torch.cat([key_P, key_A], dim=2), torch.cat([value_P, value_A], dim=2)
            outputs.append(attend(query_A, keys, values, mask)[0])
    return torch.cat(outputs, dim=1), None


@functools.lru_cache(maxsize=8)
def _continuation_mask(prefix: int, answers: tuple[int, ...], device: torch.device) -> Tensor:
    """Which of the P + A keys each of the A continuation tokens attends to: boolean [1, 1, A, P + A].

    Cached because every layer needs the same mask, and the backward pass under checkpointing needs it again.
    The cache is small because a mask for 11.5k prompt and 1.2k answer tokens takes 15 MB on the device.
    """
    own_AA = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in answers))
    shared_AP = torch.ones(len(own_AA), prefix, dtype=torch.bool)
    return torch.cat([shared_AP, own_AA], dim=1)[None, None].to(device)
