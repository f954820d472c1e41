"""Which models are refused and why, and the self-check: every family passes it, and wrong numbers do not."""

import copy

import pytest
import torch
import transformers
from families import FAMILIES, IMAGE, MODELS, TEXT, make_group, make_model, make_processor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tempo.model.attention import NAME, shared_prefix_attention
from tempo.model.chat import VideoLM
from tempo.model.prefix import ContinuationTokens, Group, inner_model
from tempo.model.support import TOLERANCES, check_processor, prepare, self_check, use_shared_prefix

QWEN = "qwen2_5_vl"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("layer_types", ["full_attention", "linear_attention"], "recurrent part .*linear_attention"),
        ("layer_types", ["chunked_attention"], "chunked_attention"),
        ("attn_logit_softcapping", 50.0, "attn_logit_softcapping = 50"),
    ],
)
def test_a_setting_of_the_language_model_is_refused_by_name(key, value, reason):
    model = make_model(QWEN, attention=False)
    setattr(model.config.text_config, key, value)
    with pytest.raises(ValueError, match=f"model.path: Qwen2_5_VLFor.*{reason}"):
        use_shared_prefix(model)


SMALL_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 10}
PALIGEMMA = {
    "text_config": {"model_type": "gemma", **TEXT, "head_dim": 12},
    "vision_config": MODELS["llava_onevision"][1]["vision_config"],
    "image_token_index": IMAGE,
}


HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "num_local_experts": 4}
QWEN4 = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 12, "indexer_budget": 4}
QWEN4 |= {"indexer_compress_ratio": 2, "head_dim": 12}
NEMOTRON = {
    "model_type": "nemotron_h",
    "num_hidden_layers": 3,
    "layer_types": [*HYBRID["layer_types"], "moe"],
}
RADIO = {"model_type": "radio", "num_hidden_layers": 1, "video_temporal_patch_size": 2}
SPARSE = {"layer_types": ["full_attention", "minimax_m3_sparse"]}
TOP_K = "layers let a query attend to the k keys with the highest scores"


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("Qwen2ForCausalLM", TEXT, "cannot be used: .*language model"),
        ("T5ForConditionalGeneration", SMALL_T5, "encoder-decoder"),
        ("PaliGemmaForConditionalGeneration", PALIGEMMA, "both directions"),
        ("NemotronH_Omni_Reasoning_V3", {"text_config": NEMOTRON, "vision_config": RADIO}, "has no `model`"),
        ("Qwen4ExpForConditionalGeneration", {"text_config": TEXT | HYBRID | EXPERTS | QWEN4}, TOP_K),
        ("MiniMaxM3SparseForConditionalGeneration", {"text_config": TEXT | EXPERTS | SPARSE}, TOP_K),
        (
            "Glm5NextForConditionalGeneration",
            {"text_config": TEXT | HYBRID | EXPERTS | {"num_key_value_heads": 4}},
            TOP_K,
        ),
        (
            "Dots3NoteForConditionalGeneration",
            {
                "text_config": TEXT | EXPERTS | {"num_key_value_heads": 4},
                "vision_config": {"adapter_out_dim": 48},
                "audio_config": {"adapter_out_dim": 48},
            },
            TOP_K,
        ),
    ],
)
def test_a_model_is_refused_with_the_reason(name, config, reason):
    make = getattr(transformers, name)
    with torch.device("meta"):
        model = make(make.config_class(**config))
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        use_shared_prefix(model)


def test_a_model_that_takes_no_encoded_video_is_refused(monkeypatch):
    model = make_model("smolvlm", attention=False)
    monkeypatch.setattr(type(inner_model(model)), "forward", lambda self, input_ids, pixel_values: None)
    with pytest.raises(ValueError, match=r"SmolVLM.*mm_encoder_outputs"):
        use_shared_prefix(model)


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


def causal_attention(module, query, key, value, attention_mask, **kwargs):
    """Wrong for a packed row: a later answer attends to the earlier ones."""
    is_layout = attention_mask is not None and attention_mask.dtype == torch.int64
    mask = None if is_layout else attention_mask
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_self_check_and_wrong_attention_does_not(family, dtype):
    model, group = make_case(family, dtype)
    assert self_check(model, [group]) < TOLERANCES[dtype] / 2
    transformers.AttentionInterface.register(NAME, causal_attention)
    try:
        with pytest.raises(ValueError, match=r"relative difference 0\.\d+, tolerance") as caught:
            self_check(model, [group])
    finally:
        transformers.AttentionInterface.register(NAME, shared_prefix_attention)
    assert str(caught.value).startswith(f"model.path: {type(model).__name__}")


def test_nan_does_not_pass():
    model, group = make_case(QWEN)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        self_check(model, [group])


def test_one_answer_is_enough_and_the_model_is_left_unchanged():
    model, group = make_case(QWEN)
    model.train()
    assert self_check(model, [Group(group.inputs, (ContinuationTokens((5, 6, 7)),))]) < 1e-5
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# The same check on a model as it was loaded, before anything in it is changed


def loaded():
    return VideoLM(make_model(QWEN, attention=False), copy.copy(make_processor(QWEN)))


def test_a_switch_that_changes_the_model_itself_is_noticed():
    """Packed and duplicated form agree after it; only the model as it was loaded differs."""
    lm = loaded()
    switch = lm.model.set_attn_implementation

    def change(name):
        switch(name)
        with torch.no_grad():
            lm.model.get_output_embeddings().weight.mul_(1.1)

    lm.model.set_attn_implementation = change
    with pytest.raises(ValueError, match=r"model\.path: Qwen2_5_VLFor.*relative difference"):
        prepare(lm)


def test_a_crash_is_the_refusal():
    lm = loaded()
    lm.model.model.get_rope_index = lambda input_ids: None
    with pytest.raises(ValueError, match=r"model\.path: Qwen2_5_VLFor.*two short videos \(TypeError"):
        prepare(lm)
