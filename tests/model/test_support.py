"""What the shared prefix cannot serve is refused by name, with the reason."""

import copy

import pytest
import torch
from families import FAMILIES, TEXT, make_plain_model
from processors import make_processor

from tempo.model.attention import NAME
from tempo.model.loading import use_shared_prefix
from tempo.model.prefix import inner_model, language_model
from tempo.model.support import check_processor, check_support


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_that_are_tested_pass(family):
    model = make_plain_model(family)
    assert check_support(model) is None
    use_shared_prefix(model)
    assert language_model(model).config._attn_implementation == NAME


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
    model = make_plain_model("qwen2_5_vl")
    setattr(model.config.text_config, key, value)
    with pytest.raises(ValueError, match=f"model.path: Qwen2_5_VLFor.*{reason}"):
        use_shared_prefix(model)


def test_a_window_without_layer_types_is_refused():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    text = {"model_type": "mistral", **TEXT, "sliding_window": 64}
    config = make_plain_model("llava_onevision").config.to_dict() | {"text_config": text}
    model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**config))
    with pytest.raises(ValueError, match=r"LlavaOnevision.*(sliding_window = 64|sliding_attention)"):
        use_shared_prefix(model)


def test_a_setting_that_does_nothing_is_let_through():
    model = make_plain_model("qwen2_5_vl")
    model.config.text_config.logits_scaling = 1.0
    assert check_support(model) is None


def test_a_language_model_whose_attention_is_fixed_is_refused(monkeypatch):
    model = make_plain_model("qwen2_5_vl")
    text = type(language_model(model))
    monkeypatch.setattr(text, "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match=r"Qwen2_5_VLTextModel\) does not let its attention be replaced"):
        check_support(model)


def test_a_model_that_cannot_take_encoded_videos_is_refused(monkeypatch):
    model = make_plain_model("smolvlm")

    def forward(self, input_ids=None, attention_mask=None, pixel_values=None): ...

    monkeypatch.setattr(type(inner_model(model)), "forward", forward)
    with pytest.raises(ValueError, match=r"SmolVLM.*mm_encoder_outputs"):
        check_support(model)


def test_a_model_that_sees_no_video_is_refused():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with pytest.raises(ValueError, match=r"Qwen2ForCausalLM cannot be used: .*language model"):
        check_support(Qwen2ForCausalLM(Qwen2Config(**TEXT)))


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=10)
    with pytest.raises(ValueError, match=r"T5ForConditionalGeneration.*encoder-decoder"):
        check_support(T5ForConditionalGeneration(config))


def test_a_family_whose_prompt_is_not_causal_is_refused():
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "patch_size": 4,
    }
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT, "head_dim": 12},
        vision_config=vision | {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8},
        image_token_index=93,
    )
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    with pytest.raises(ValueError, match=r"PaliGemma.*both directions"):
        check_support(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_processors_of_the_families_pass(family):
    assert check_processor(make_processor(family)) is None


@pytest.mark.parametrize("part", ["video_processor", "chat_template", "tokenizer"])
def test_a_processor_that_takes_no_video_or_no_conversation_is_refused(part):
    processor = copy.copy(make_processor("qwen2_5_vl"))
    setattr(processor, part, None)
    with pytest.raises(ValueError, match=f"Qwen2_5_VLProcessor cannot be used: it has no {part}"):
        check_processor(processor)
