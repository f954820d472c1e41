"""What a phase trains, and what its reference is."""

import re
from typing import get_args

import pytest
import torch
from training_material import phase

from tempo.config.running import Part
from tempo.model.loading import load_model, repair_torchvision
from tempo.training.adapters import NEWEST
from tempo.training.policy import Policy


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


def test_what_is_trained_is_described_and_a_part_that_a_model_lacks_is_named():
    repair_torchvision()
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    text |= {"moe_intermediate_size": 8, "num_experts": 4, "vocab_size": 90, "head_dim": 16}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 8}
    config = Qwen3VLMoeConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]})
    config.image_token_id = config.video_token_id = config.vision_start_token_id = 5

    def described(**changes):
        model = Qwen3VLMoeForConditionalGeneration(config)
        return Policy(model, phase(**changes), dtype=torch.float32).describe_trained()

    everything, without = get_args(Part), "; the routed experts are not trained"
    # Rank times inputs and outputs of the projections of queries, keys, values and outputs.
    size = phase().lora_rank * 4 * (32 + 32)
    wanted = f"language model {size:,}, vision tower 0, merger 0 LoRA parameters{without}"
    assert described() == wanted
    assert described(lora_rank=0, train=["vision_tower"]).endswith(f" parameters{without}")
    full = described(lora_rank=0, train=everything, objective="sft")
    size = sum(p.numel() for p in Qwen3VLMoeForConditionalGeneration(config).parameters())
    assert sum(int(count.replace(",", "")) for count in re.findall(r"\d[\d,]*\d", full)) == size
    assert full.endswith(" parameters")
    headless = load_model("embedded").model
    headless.model.visual.merger = None
    with pytest.raises(ValueError, match=r"phase 'p': Qwen2_5_VL.* has no merger\. Remove it from `train`"):
        Policy(headless, phase(train=["merger"]), dtype=torch.float32)
