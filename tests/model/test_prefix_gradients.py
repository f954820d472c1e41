"""The shared prefix equals the duplicated form: the same values, loss and gradients in every family."""

import functools

import pytest
import torch
from families import FAMILIES, VOCABULARY, assert_same, dpo_loss, make_group, make_model, step
from torch import nn

from tempo.model.prefix import ContinuationTokens, Group, encode_videos, language_model, packed_log_probs
from tempo.model.support import duplicated_log_probs

QWEN = "qwen2_5_vl"

#: More time steps than the video's grid is wide: wrong positions show only then.
LONG = 33


def make_policy(family, *, lora=False, vision=False, checkpointing=False):
    model = make_model(family)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = with_lora(model, vision) if lora else model.requires_grad_(vision)
    if not lora:
        language_model(model).requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
    return policy.train()


def with_lora(model, vision):
    """LoRA with a random second factor: at its initial value, zero, half of the gradients are zero."""
    from peft import LoraConfig, get_peft_model

    language = set(language_model(model).modules())
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and (vision or module in language)
    ]
    policy = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    torch.manual_seed(5)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return policy


def assert_equal_steps(policy, groups, *, loss=None, family=QWEN):
    """One packed row gives the loss and all gradients of one full sequence per answer."""
    if not loss:
        with torch.no_grad():
            reference = duplicated_log_probs(make_model(family, seed=1), groups)
        loss = functools.partial(dpo_loss, reference=reference)
    steps = [step(compute, policy, loss, groups) for compute in (packed_log_probs, duplicated_log_probs)]
    trained = {name for name, p in policy.named_parameters() if p.requires_grad and "language" in name}
    assert trained <= steps[0][2].keys()
    assert_same(*steps)


def sft_loss(logps):
    return -torch.cat(logps[0]).mean()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("num_rejected", "checkpointing"), [(1, False), (3, False), (3, True)])
def test_dpo_loss_and_gradients_equal_the_duplicated_form(family, lora, num_rejected, checkpointing):
    policy = make_policy(family, lora=lora, checkpointing=checkpointing)
    group = make_group(family, num_steps=LONG, lengths=[11, 8, 14, 5][: num_rejected + 1])
    assert_equal_steps(policy, [group], family=family)


def test_gradients_through_the_head_in_chunks_equal_those_of_the_whole_head():
    """The head runs on 512 answer tokens at a time; the duplicated form calls it once per sequence."""
    assert_equal_steps(make_policy(QWEN), [make_group(QWEN, num_steps=2, lengths=[700, 500])], loss=sft_loss)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_row_of_several_videos_trains_the_vision_tower_too(family, lora):
    """Videos and answers of different lengths, and one group without a video."""
    groups = [make_group(family, num_steps=n, lengths=[6, 1 + n, 3], seed=n) for n in (3, 0, 9, 5)]
    assert_equal_steps(make_policy(family, lora=lora, vision=True), groups, family=family)


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_over_one_prefix_train_as_if_each_had_its_own_row(family):
    group = make_group(family, num_steps=LONG, lengths=[8, 6, 9], context=4)
    assert_equal_steps(make_policy(family), [group], loss=sft_loss)


def test_one_pass_of_the_tower_serves_all_videos_policy_and_reference():
    models, passes = [make_model(QWEN, seed=seed) for seed in (0, 1)], []
    groups = [make_group(QWEN, num_steps=n, lengths=[5, 4, 6], seed=n) for n in (3, 4)]
    for model in models:
        model.model.visual.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        features = encode_videos(models[0], groups)
        for model in models:
            packed_log_probs(model, groups, video_features=features)
    assert len(passes) == 1


def test_several_threads_give_the_same_gradients_every_time():
    """The last token of the prefix predicts the first of each answer, so gradients are added there."""
    model, before = make_policy(QWEN), torch.get_num_threads()
    group = make_group(QWEN, num_steps=2, lengths=[60] * 40)
    torch.set_num_threads(2)
    try:
        _, _, first = step(packed_log_probs, model, sft_loss, [group])
        for _ in range(20):
            _, _, again = step(packed_log_probs, model, sft_loss, [group])
            assert all(torch.equal(gradient, again[name]) for name, gradient in first.items())
    finally:
        torch.set_num_threads(before)


# Values and memory


def largest_difference(ours, theirs):
    rows = zip(ours, theirs, strict=True)
    pairs = [pair for one, other in rows for pair in zip(one, other, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


def assert_exact(model, groups):
    with torch.no_grad():
        packed = packed_log_probs(model, groups)
        assert largest_difference(packed, duplicated_log_probs(model, groups)) < 1e-5
    return packed


def test_a_row_of_text_alone_needs_no_video():
    model, group = make_model(QWEN), make_group(QWEN, num_steps=0, lengths=[4, 6])
    assert encode_videos(model, [group]) is None
    assert_exact(model, [group])


def test_context_is_read_but_not_scored():
    model, group = make_model(QWEN), make_group(QWEN, num_steps=4, lengths=[7, 9], context=3)
    (scores,) = assert_exact(model, [group])
    assert [len(logp) for logp in scores] == [4, 6]
    other = tuple(ContinuationTokens((5, 6, 7, *c.token_ids[3:]), 3) for c in group.continuations)
    with torch.no_grad():
        changed = packed_log_probs(model, [Group(group.inputs, other)])
    assert largest_difference([scores], changed) > 1e-3


def test_tokens_that_a_family_removes_from_a_video_are_removed_from_the_row():
    group = make_group("video_llama_3", num_steps=6, lengths=[5, 3])
    kept = group.inputs["video_compression_mask"]
    # Six tokens of the first frame, and the three that moved of each later one.
    assert int(kept.sum()) == 6 + 5 * 3 < len(kept)
    model = make_model("video_llama_3")
    right = assert_exact(model, [group])
    flipped = Group({**group.inputs, "video_compression_mask": kept.flip(0)}, group.continuations)
    with torch.no_grad():
        assert largest_difference(packed_log_probs(model, [flipped]), right) > 1e-3


def test_the_head_runs_on_512_tokens_at_a_time_and_no_logits_are_kept_for_the_backward():
    model, group = make_model(QWEN), make_group(QWEN, num_steps=2, lengths=[700, 500])
    kept, calls = [], []
    model.get_output_embeddings().register_forward_hook(lambda *call: calls.append(call[-1].shape[-2]))

    def note(tensor):
        if tensor.ndim and tensor.shape[-1] == VOCABULARY:
            kept.append(tensor.numel() // VOCABULARY)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        (logps,) = packed_log_probs(model, [group])
        assert (calls, kept) == ([512, 512, 176], [])
        # The duplicated form keeps them, so this looks at the right tensors.
        duplicated_log_probs(model, [group])
        assert max(kept) >= 700
    calls.clear()
    torch.cat(logps).sum().backward()
    assert sorted(calls) == [176, 512, 512]
