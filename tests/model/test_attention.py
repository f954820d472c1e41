"""The registered attention: what a layout means, and plain SDPA without one."""

import pytest
import torch

from tempo.model.attention import make_layout, shared_prefix_attention


class Layer(torch.nn.Module):
    """The attributes of an attention layer that the attention function reads."""

    is_causal = True
    num_key_value_groups = 2


def random_heads(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, 4, length, 8, generator=generator)
    key, value = (torch.randn(1, 2, length, 8, generator=generator) for _ in range(2))
    return query, key, value


def square_mask(segments):
    """The dense mask that a layout stands for: boolean [L, L]."""
    length = sum(map(sum, segments))
    mask = torch.zeros(length, length, dtype=torch.bool)
    start = 0
    for prefix, *answers in segments:
        own_start = start
        for size in (prefix, *answers):
            for row in range(own_start, own_start + size):
                mask[row, start : start + (0 if own_start == start else prefix)] = True
                mask[row, own_start : row + 1] = True
            own_start += size
        start = own_start
    return mask


def dense_attention(query, key, value, mask):
    key, value = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize(
    "segments", [[(5,)], [(5, 1)], [(1, 4, 1, 7)], [(5, 3, 2), (7, 4)], [(3,), (2, 6, 6), (9, 1)]]
)
def test_a_layout_means_its_square_mask(segments):
    heads = random_heads(sum(map(sum, segments)))
    output, weights = shared_prefix_attention(Layer(), *heads, make_layout(segments))
    assert weights is None
    assert torch.allclose(output, dense_attention(*heads, square_mask(segments)), atol=1e-6)


def test_without_a_layout_it_is_sdpa_with_the_mask_or_causal_without_one():
    heads = random_heads(6)
    causal = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    padded = causal.clone()
    padded[..., 2:, 1] = False
    for given, meant in ((None, causal), (padded, padded)):
        output, _ = shared_prefix_attention(Layer(), *heads, given)
        assert torch.allclose(output, dense_attention(*heads, meant), atol=1e-6)


def test_no_mask_is_square():
    """The largest tensor saved for a long prefix has one row per answer token, not one per token."""
    length = 1010
    sizes = []
    heads = [tensor.requires_grad_() for tensor in random_heads(length)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        shared_prefix_attention(Layer(), *heads, make_layout([(1000, 4, 6)]))
    assert 0 < max(sizes) < length**2 / 10
