"""Which models are refused and why, and a self-check that every family passes and wrong numbers do not."""

import copy
import inspect

import pytest
import torch
from families import CONFIGS, FAMILIES, TEXT, make_group, make_model, make_plain_model, make_processor

from tempo.model.attention import NAME, is_layout, register_shared_prefix
from tempo.model.loading import repair_torchvision, use_shared_prefix
from tempo.model.prefix import ContinuationTokens, Group, inner_model
from tempo.model.support import TOLERANCES, check_processor, check_support, self_check

QWEN = "qwen2_5_vl"
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("layer_types", ["sliding_attention"], "sliding_attention"),
        ("layer_types", ["full_attention", "linear_attention"], "linear_attention"),
        ("layer_types", ["chunked_attention"], "chunked_attention"),
        ("attn_logit_softcapping", 50.0, "attn_logit_softcapping = 50"),
        ("final_logit_softcapping", 30.0, "final_logit_softcapping = 30"),
        ("logit_scale", 0.0625, "logit_scale = 0.0625"),
        ("logits_scaling", 8.0, "logits_scaling = 8"),
    ],
)
def test_a_setting_of_the_language_model_is_refused_by_name(key, value, reason):
    model = make_plain_model(QWEN)
    setattr(model.config.text_config, key, value)
    with pytest.raises(ValueError, match=f"model.path: Qwen2_5_VLFor.*{reason}"):
        use_shared_prefix(model)


def test_a_setting_without_effect_is_accepted():
    model = make_plain_model(QWEN)
    model.config.text_config.logits_scaling = 1.0
    check_support(model)


def sliding_window():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    text = {"model_type": "mistral", **TEXT, "sliding_window": 64}
    config = LlavaOnevisionConfig(**CONFIGS["llava_onevision"][2] | {"text_config": text})
    return LlavaOnevisionForConditionalGeneration(config)


def text_only():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**TEXT))


def encoder_decoder():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=10)
    return T5ForConditionalGeneration(config)


def bidirectional_prompt():
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT, "head_dim": 12},
        vision_config={"model_type": "siglip_vision_model", "patch_size": 4, "image_size": 8, **vision},
        image_token_index=93,
    )
    return PaliGemmaForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (sliding_window, r"LlavaOnevision.*(sliding_window = 64|sliding_attention)"),
        (text_only, r"Qwen2ForCausalLM cannot be used: .*language model"),
        (encoder_decoder, r"T5ForConditionalGeneration.*encoder-decoder"),
        (bidirectional_prompt, r"PaliGemma.*both directions"),
    ],
)
def test_a_model_is_refused_with_the_reason(make, reason):
    with torch.device("meta"):
        model = make()
    with pytest.raises(ValueError, match=reason):
        check_support(model)


def test_a_model_that_takes_no_encoded_video_is_refused(monkeypatch):
    model = make_plain_model("smolvlm")
    monkeypatch.setattr(type(inner_model(model)), "forward", lambda self, input_ids, pixel_values: None)
    with pytest.raises(ValueError, match=r"SmolVLM.*mm_encoder_outputs"):
        check_support(model)


@pytest.mark.parametrize("part", ["video_processor", "chat_template", "tokenizer"])
def test_a_processor_without_video_or_chat_is_refused(part):
    processor = copy.copy(make_processor(QWEN))
    setattr(processor, part, None)
    with pytest.raises(ValueError, match=f"Qwen2_5_VLProcessor cannot be used: it has no {part}"):
        check_processor(processor)


# The self-check


def make_case(family, dtype=torch.float32):
    # A short prefix: random attention over a long one would hardly show that answers attend to each other.
    return make_model(family).to(dtype), make_group(family, num_steps=2, lengths=[40, 12, 4])


@pytest.fixture
def break_attention():
    """A function that makes attention plainly causal: a later answer attends to the earlier ones."""
    repair_torchvision()
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def causal(module, query, key, value, attention_mask, **kwargs):
        mask = None if is_layout(attention_mask) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    # Called after the model is made, which registers the right attention.
    yield lambda: AttentionInterface.register(NAME, causal)
    register_shared_prefix()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_self_check_with_room_to_spare(family, dtype):
    assert self_check(*make_case(family, dtype)) < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_attention_is_noticed(family, dtype, break_attention):
    model, group = make_case(family, dtype)
    break_attention()
    with pytest.raises(ValueError, match=r"relative difference 0\.\d+, tolerance") as caught:
        self_check(model, group)
    assert str(caught.value).startswith(f"model.path: {type(model).__name__}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_positions_are_noticed(dtype):
    """A model whose positions depend on the length of the row, which the two forms do not share."""
    model, group = make_case(QWEN, dtype)
    core, original = model.model, model.model.get_rope_index

    def shifted(input_ids, **inputs):
        positions, delta = original(input_ids=input_ids, **inputs)
        longer = torch.arange(positions.shape[-1]) >= group.lengths[0]
        return positions + 7 * longer * (input_ids.shape[1] == group.lengths[0] + group.lengths[1]), delta

    shifted.__signature__ = inspect.signature(original)
    core.get_rope_index = shifted
    with pytest.raises(ValueError, match="relative difference"):
        self_check(model, Group(group.inputs, (group.continuations[1], group.continuations[0])))


def test_nan_does_not_pass():
    model, group = make_case(QWEN)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        self_check(model, group)


def test_one_answer_is_enough_and_the_model_is_left_unchanged():
    model, group = make_case(QWEN)
    model.train()
    assert self_check(model, Group(group.inputs, (ContinuationTokens((5, 6, 7)),))) < 1e-5
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
