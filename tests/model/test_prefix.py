"""The shared prefix is exact: log-probabilities, losses and every gradient equal the plain form."""

import copy

import pytest
import torch
from families import MODELS, make_group, make_model, text_group

from tempo.model import prefix
from tempo.model.duplicated import duplicated_log_probs
from tempo.model.prefix import Group, encode_videos, log_probs
from tempo.sections import PhaseConfig
from tempo.training.adapters import Policy
from tempo.training.losses import dpo_terms
from tempo.training.trainer import dpo_row, sft_row

FAMILIES = ["qwen2_5_vl", "llava_onevision"]
#: Time steps of the video: fewer than its grid is wide, and many more (the position trap shows only there).
SHORT, LONG = 2, 33


def largest_difference(ours, theirs):
    rows = zip(ours, theirs, strict=True)
    pairs = [pair for one, other in rows for pair in zip(one, other, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


def relative_difference(ours, theirs):
    scale = torch.cat([b.flatten() for b in theirs]).norm()
    return float(torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)]).norm() / scale)


@pytest.mark.parametrize("family", sorted(MODELS))
@pytest.mark.parametrize("num_steps", [SHORT, LONG])
def test_log_probs_equal_the_plain_form(family, num_steps):
    model = make_model(family)
    group = make_group(family, num_steps=num_steps, lengths=[9, 4, 13, 1])
    with torch.no_grad():
        assert largest_difference(log_probs(model, [group]), duplicated_log_probs(model, [group])) < 1e-4


@pytest.mark.parametrize("family", sorted(MODELS))
def test_several_videos_of_different_length_share_a_row(family):
    model = make_model(family)
    groups = [make_group(family, num_steps=n, lengths=[5, 3], seed=n) for n in (3, 17, 8)]
    groups.insert(1, text_group(lengths=[6]))
    with torch.no_grad():
        assert largest_difference(log_probs(model, groups), duplicated_log_probs(model, groups)) < 1e-4


def test_a_text_only_row_needs_no_video():
    model = make_model("qwen2_5_vl")
    group = text_group(lengths=[4, 6])
    assert encode_videos(model, [group]) is None
    with torch.no_grad():
        assert largest_difference(log_probs(model, [group]), duplicated_log_probs(model, [group])) < 1e-4


def test_context_is_read_but_not_scored():
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9], context=3)
    with torch.no_grad():
        scores = log_probs(model, [group])
        assert [len(logp) for logp in scores[0]] == [4, 6]
        assert largest_difference(scores, duplicated_log_probs(model, [group])) < 1e-4


def test_a_continuation_does_not_see_another():
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9])
    alone = Group(group.inputs, group.continuations[1:])
    with torch.no_grad():
        assert torch.allclose(log_probs(model, [group])[0][1], log_probs(model, [alone])[0][0], atol=1e-5)


def test_positions_of_a_long_video_are_the_familys_own(monkeypatch):
    """The trap: counting on from the largest position of the prompt is wrong, and this test would notice."""
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=LONG, lengths=[9])
    original = prefix._pack_positions

    def counted_on(core, group):
        positions = original(core, group).clone()
        num_prompt = group.lengths[0]
        start = positions[..., :num_prompt].max() + 1
        positions[..., num_prompt:] = start + torch.arange(positions.shape[-1] - num_prompt)
        return positions

    with torch.no_grad():
        right = log_probs(model, [group])
        monkeypatch.setattr(prefix, "_pack_positions", counted_on)
        assert largest_difference(log_probs(model, [group]), right) > 1e-3


def test_the_head_runs_in_chunks(monkeypatch):
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9])
    with torch.no_grad():
        whole = log_probs(model, [group])
        monkeypatch.setattr(prefix, "HEAD_CHUNK", 3)
        assert largest_difference(log_probs(model, [group]), whole) < 1e-6


def phase(**changes):
    settings = {"name": "p", "objective": "dpo", "learning_rate": 1e-3, "beta": 0.5, "lora_rank": 0}
    return PhaseConfig.model_validate(settings | changes)


def perturb_adapters(policy):
    """LoRA starts at zero, where policy and reference agree; moved, the loss has something to say."""
    torch.manual_seed(5)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def plain_dpo_step(policy, group, phase):
    """The loss of every pair as two full sequences through the policy and two through the reference."""
    total = 0.0
    for rejected in group.continuations[1:]:
        pair = Group(group.inputs, (group.continuations[0], rejected))
        with policy.reference() as reference_model:
            reference = duplicated_log_probs(reference_model, [pair])[0]
        own = duplicated_log_probs(policy.model, [pair])[0]
        total = total + dpo_terms(own, reference, beta=phase.beta, nll_weight=phase.nll_weight).loss
    return total


def gradients(policy):
    found = [p.grad.clone() for p in policy.parameters if p.grad is not None]
    for parameter in policy.parameters:
        parameter.grad = None
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_rejected", [1, 2, 3])
@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dpo_loss_and_gradients_equal_the_plain_form(family, num_rejected, lora_rank, checkpointing):
    settings = phase(lora_rank=lora_rank, gradient_checkpointing=checkpointing, train_vision=False)
    policy = Policy(make_model(family), settings)
    perturb_adapters(policy)
    group = make_group(family, num_steps=LONG, lengths=[11, 8, 14, 5][: num_rejected + 1])
    loss, _ = dpo_row(policy, [group], settings)
    loss.backward()
    ours = gradients(policy)
    plain = plain_dpo_step(policy, group, settings)
    plain.backward()
    theirs = gradients(policy)
    assert len(ours) == len(theirs) == len(policy.parameters)
    assert float((loss - plain).abs() / plain.abs()) <= 1e-5
    assert relative_difference(ours, theirs) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_trained_vision_tower_gets_its_gradients(family, lora_rank):
    settings = phase(lora_rank=lora_rank, train_vision=True)
    policy = Policy(make_model(family), settings)
    perturb_adapters(policy)
    group = make_group(family, num_steps=5, lengths=[6, 8, 3])
    loss, _ = dpo_row(policy, [group], settings)
    loss.backward()
    names = [name for name, p in policy.model.named_parameters() if p.requires_grad and p.grad is not None]
    assert any("visual" in name or "vision_tower" in name for name in names)
    ours = gradients(policy)
    plain_dpo_step(policy, group, settings).backward()
    assert relative_difference(ours, gradients(policy)) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_over_one_prefix_train_as_if_each_had_its_own_row(family):
    settings = PhaseConfig(name="s", objective="sft", learning_rate=1e-3, lora_rank=0)
    policy = Policy(make_model(family), settings)
    group = make_group(family, num_steps=LONG, lengths=[8, 6, 9], context=4)
    loss, _ = sft_row(policy, [group], settings)
    loss.backward()
    ours = gradients(policy)
    plain = -torch.cat(duplicated_log_probs(policy.model, [group])[0]).sum()
    plain.backward()
    assert float((loss - plain).abs() / plain) <= 1e-5
    assert relative_difference(ours, gradients(policy)) <= 1e-5


def test_a_frozen_tower_is_run_once_per_step(monkeypatch):
    model = make_model("qwen2_5_vl")
    calls = []
    original = type(model.model.visual).forward
    monkeypatch.setattr(
        type(model.model.visual), "forward", lambda self, *a, **k: calls.append(1) or original(self, *a, **k)
    )
    settings = phase(lora_rank=4)
    policy = Policy(model, settings)
    groups = [make_group("qwen2_5_vl", num_steps=n, lengths=[5, 4, 6], seed=n) for n in (3, 4)]
    dpo_row(policy, groups, settings)[0].backward()
    assert len(calls) == 1


def test_a_frozen_phase_leaves_the_vision_tower_alone():
    model = make_model("qwen2_5_vl")
    before = copy.deepcopy(model.model.visual.state_dict())
    policy = Policy(model, phase(lora_rank=0))
    assert not any(p.requires_grad for p in model.model.visual.parameters())
    optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
    dpo_row(policy, [make_group("qwen2_5_vl", num_steps=3, lengths=[5, 4])], phase(lora_rank=0))[0].backward()
    optimizer.step()
    after = policy.merged().model.visual.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
