"""What a phase trains, what its reference is, and the reference's log-probabilities on disk."""

from typing import get_args

import pytest
import torch
from training_material import phase

from tempo.config.running import Part
from tempo.model.loading import load_model, repair_torchvision
from tempo.model.prefix import ContinuationTokens, Group
from tempo.training.adapters import NEWEST
from tempo.training.policy import Policy, ReferenceStore


def unwrapped(name):
    """The name of a weight without what PEFT adds to it."""
    return name.replace(".base_layer.", ".")


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_is_the_model_before_the_phase(lora_rank):
    before = {name: value.clone() for name, value in load_model("embedded").model.state_dict().items()}
    policy = Policy(load_model("embedded").model, phase(lora_rank=lora_rank), dtype=torch.float32)
    with torch.no_grad():
        for parameter in policy.trained.values():
            parameter.add_(0.1)
    with policy.reference() as reference:
        state = {unwrapped(name): value for name, value in reference.state_dict().items()}
        assert all(torch.equal(value, state[name]) for name, value in before.items())
        if lora_rank:
            assert {NEWEST} not in [{*m.active_adapters} for m in reference.modules() if hasattr(m, "lora_A")]


def test_a_part_that_a_model_lacks_is_named_and_experts_are_counted():
    repair_torchvision()
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    text |= {"moe_intermediate_size": 8, "num_experts": 4, "vocab_size": 90, "head_dim": 16}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 8}
    config = Qwen3VLMoeConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]})
    config.image_token_id = config.video_token_id = config.vision_start_token_id = 5

    def counts(**changes):
        return Policy(
            Qwen3VLMoeForConditionalGeneration(config), phase(**changes), dtype=torch.float32
        ).count_trained()

    everything = get_args(Part)
    assert counts(train=everything)["experts"] == 0
    assert counts(lora_rank=0, train=["vision_tower"])["experts"] == 0
    full = counts(lora_rank=0, train=everything, objective="sft")
    assert full["experts"] == 4 * 3 * 8 * 32
    size = sum(p.numel() for p in Qwen3VLMoeForConditionalGeneration(config).parameters())
    assert sum(full[part] for part in everything) == size
    headless = load_model("embedded").model
    headless.model.visual.merger = None
    with pytest.raises(ValueError, match=r"phase 'p': Qwen2_5_VL.* has no merger\. Remove it from `train`"):
        Policy(headless, phase(train=["merger"]), dtype=torch.float32)


def group(pixel=0.5, answers=((5, 6), (7,)), context=0):
    inputs = {"input_ids": torch.tensor([[1, 2]]), "pixel_values_videos": torch.tensor([[pixel]])}
    return Group(inputs, tuple(ContinuationTokens(answer, context) for answer in answers))


LOGPS = [torch.tensor([-0.1, -1 / 3]), torch.tensor([-2.5])]


def test_log_probabilities_are_restored_exactly_also_after_a_torn_line_and_of_all_processes(tmp_path):
    ReferenceStore(tmp_path, key="m").add(group(), LOGPS)
    with next(tmp_path.iterdir()).open("a") as file:
        file.write('["abc", [[-0.')
    ReferenceStore(tmp_path, key="m").add(group(pixel=0.25), LOGPS)
    ReferenceStore(tmp_path, key="m", rank=1).add(group(pixel=0.75), LOGPS)
    assert len(list(tmp_path.iterdir())) == 2
    for one in (group(), group(pixel=0.25), group(pixel=0.75)):
        found = ReferenceStore(tmp_path, key="m").get(one)
        assert all(torch.equal(value, other) for value, other in zip(found, LOGPS, strict=True))


@pytest.mark.parametrize(
    "other",
    [group(pixel=0.25), group(answers=((5, 6), (8,))), group(answers=((5,), (7,))), group(context=1)],
)
def test_another_video_answer_or_model_is_unknown(tmp_path, other):
    store = ReferenceStore(tmp_path, key="m")
    store.add(group(), LOGPS)
    assert store.get(other) is None
    assert ReferenceStore(tmp_path, key="n").get(group()) is None
