"""The shared prefix trains as the plain form does: loss and every gradient are equal, in every family."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, make_group, make_model, text_group
from torch import nn

from tempo.model.prefix import Group, encode_videos, language_model, packed_log_probs
from tempo.model.support import duplicated_log_probs

#: More time steps than the video's grid is wide: the position trap shows only there.
LONG = 33
BETA = 0.5


@dataclasses.dataclass
class Learner:
    """A policy that differs from its reference, and what of it is trained."""

    policy: nn.Module
    reference: nn.Module

    @property
    def parameters(self):
        return [p for p in self.policy.parameters() if p.requires_grad]

    def gradients(self):
        """Those of the last backward pass, taken off the parameters."""
        found = [p.grad.clone() for p in self.parameters if p.grad is not None]
        self.policy.zero_grad(set_to_none=True)
        return found


def make_learner(family, *, lora=False, vision=False, checkpointing=False):
    model = make_model(family)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = with_lora(model, vision) if lora else model.requires_grad_(vision)
    if not lora:
        language_model(model).requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
    return Learner(policy.train(), make_model(family, seed=1).requires_grad_(False))


def with_lora(model, vision):
    """LoRA whose second factor, zero at the start, is moved: else half of the gradients would be zero."""
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


def dpo_loss(policy, reference):
    """The sum over pairs of groups whose first answer is the chosen one."""
    total = 0.0
    for own, other in zip(policy, reference, strict=True):
        chosen, *rejected = [a.sum() - b.sum() for a, b in zip(own, other, strict=True)]
        total = total - F.logsigmoid(BETA * (chosen - torch.stack(rejected))).sum()
    return total


def packed_step(learner, groups, *, vision=False):
    """One row for all answers; a frozen tower sees each video once for both models."""
    features = None
    if not vision:
        with torch.no_grad():
            features = encode_videos(learner.policy, groups)
    with torch.no_grad():
        reference = packed_log_probs(learner.reference, groups)
    loss = dpo_loss(packed_log_probs(learner.policy, groups, video_features=features), reference)
    loss.backward()
    return float(loss.detach()), learner.gradients()


def plain_step(learner, groups):
    """Every pair as two full sequences through the policy and two through the reference."""
    total = 0.0
    for group in groups:
        for rejected in group.continuations[1:]:
            pair = [Group(group.inputs, (group.continuations[0], rejected))]
            with torch.no_grad():
                reference = duplicated_log_probs(learner.reference, pair)
            loss = dpo_loss(duplicated_log_probs(learner.policy, pair), reference)
            loss.backward()
            total += float(loss.detach())
    return total, learner.gradients()


def relative_difference(ours, theirs):
    assert len(ours) == len(theirs) > 0
    scale = torch.cat([b.flatten() for b in theirs]).norm()
    return float(torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)]).norm() / scale)


def assert_equal_steps(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert relative_difference(ours[1], theirs[1]) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("num_rejected", "checkpointing"), [(1, False), (3, False), (3, True)])
def test_dpo_loss_and_gradients_equal_the_plain_form(family, lora, num_rejected, checkpointing):
    learner = make_learner(family, lora=lora, checkpointing=checkpointing)
    group = make_group(family, num_steps=LONG, lengths=[11, 8, 14, 5][: num_rejected + 1])
    ours = packed_step(learner, [group])
    assert len(ours[1]) == len(learner.parameters)
    assert_equal_steps(ours, plain_step(learner, [group]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_row_of_several_videos_trains_the_vision_tower_too(family, lora):
    """Videos of different length, ragged answers, one group without a video, everything trained."""
    learner = make_learner(family, lora=lora, vision=True)
    groups = [make_group(family, num_steps=n, lengths=[6, 1 + n, 3], seed=n) for n in (3, 9, 5)]
    groups.insert(1, text_group(lengths=[4, 7]))
    ours = packed_step(learner, groups, vision=True)
    assert_equal_steps(ours, plain_step(learner, groups))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_tower_gets_gradients_only_where_it_is_trained(family):
    for vision in (False, True):
        learner = make_learner(family, vision=vision)
        group = make_group(family, num_steps=4, lengths=[6, 3])
        features = encode_videos(learner.policy, [group])
        text = sum(p.numel() for p in language_model(learner.policy).parameters())
        (modality,) = features
        pooled = features[modality].pooler_output
        assert torch.cat([tokens.flatten() for tokens in pooled]).requires_grad is vision
        _, gradients = packed_step(learner, [group], vision=vision)
        head = learner.policy.get_output_embeddings().weight.numel()
        assert (sum(g.numel() for g in gradients) > text + head) is vision


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_over_one_prefix_train_as_if_each_had_its_own_row(family):
    learner = make_learner(family)
    group = make_group(family, num_steps=LONG, lengths=[8, 6, 9], context=4)
    results = []
    for score in (packed_log_probs, duplicated_log_probs):
        loss = -torch.cat(score(learner.policy, [group])[0]).sum()
        loss.backward()
        results.append((float(loss.detach()), learner.gradients()))
    assert_equal_steps(*results)


def test_a_frozen_tower_is_run_once_for_policy_and_reference(monkeypatch):
    """All videos of a row in one pass, and `log_probs` makes none where it is given the features."""
    learner = make_learner("qwen2_5_vl")
    tower = type(learner.policy.model.visual)
    calls = []
    original = tower.forward
    monkeypatch.setattr(tower, "forward", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    groups = [make_group("qwen2_5_vl", num_steps=n, lengths=[5, 4, 6], seed=n) for n in (3, 4)]
    with torch.no_grad():
        features = encode_videos(learner.policy, groups)
    for model in (learner.policy, learner.reference):
        packed_log_probs(model, groups, video_features=features)
    assert len(calls) == 1
