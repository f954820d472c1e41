"""The check at the start of a run: it lets every family pass, and nothing that is computed wrongly."""

import inspect

import pytest
import torch
from families import FAMILIES, make_group, make_lm

from tempo.model import prefix
from tempo.model.attention import NAME, is_layout, register_shared_prefix
from tempo.model.loading import VideoLM, repair_torchvision
from tempo.model.prefix import Continuation, Group
from tempo.model.selfcheck import TOLERANCES, self_check

DTYPES = [torch.float32, torch.bfloat16]


def make_case(family, dtype=torch.float32):
    lm = make_lm(family)
    # A short prefix: random attention, spread over a long one, would hardly notice the other answer.
    group = make_group(family, num_steps=2, lengths=[40, 12, 4])
    return VideoLM(lm.model.to(dtype), lm.processor), group


@pytest.fixture
def break_attention():
    """Plain causal attention over the packed row, once it is called: a later answer sees the earlier ones."""
    repair_torchvision()
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def causal(module, query, key, value, attention_mask, **kwargs):
        mask = None if is_layout(attention_mask) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    # Not before the model is made: making it registers the right one.
    yield lambda: AttentionInterface.register(NAME, causal)
    register_shared_prefix()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family, dtype):
    # The figure leaves room below what stops a run.
    assert self_check(*make_case(family, dtype)) < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_attention_is_caught(family, dtype, break_attention):
    case = make_case(family, dtype)
    break_attention()
    with pytest.raises(ValueError, match=r"relative difference 0\.\d+, tolerance"):
        self_check(*case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_positions_are_caught(dtype, monkeypatch):
    original = prefix._pack_positions

    def shifted(core, group):
        positions = original(core, group).clone()
        positions[..., group.lengths[0] :] += 7
        return positions

    monkeypatch.setattr(prefix, "_pack_positions", shifted)
    with pytest.raises(ValueError, match="relative difference"):
        self_check(*make_case("qwen2_5_vl", dtype))


def test_the_message_has_the_model_the_figures_and_what_to_do(break_attention):
    case = make_case("smolvlm")
    break_attention()
    with pytest.raises(ValueError, match=r"model\.path: SmolVLM.*tolerance 0\.0001 in float32") as caught:
        self_check(*case)
    assert "packed -" in str(caught.value)
    assert "plain -" in str(caught.value)
    assert "give a checkpoint of another family" in str(caught.value)


def test_a_number_that_is_none_does_not_pass():
    lm, group = make_case("qwen2_5_vl")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        self_check(lm, group)


def test_the_model_is_left_as_it_was():
    lm, group = make_case("qwen2_5_vl")
    lm.model.train()
    self_check(lm, group)
    assert lm.model.training
    assert all(p.grad is None and p.requires_grad for p in lm.model.parameters())


def test_one_answer_is_enough():
    lm, group = make_case("qwen2_5_vl")
    assert self_check(lm, Group(group.inputs, (Continuation((5, 6, 7)),))) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_it_asks_for_the_logits_of_answers_only(family):
    lm, group = make_case(family)
    if "logits_to_keep" not in inspect.signature(lm.model.forward).parameters:
        pytest.skip("the family always computes the logits of the whole prompt")
    sizes = []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-2]))
    self_check(lm, group)
    hook.remove()
    # The last two passes are those of the plain form.
    assert sizes[-2:] == [len(c.token_ids) + 1 for c in group.continuations[:2]]
