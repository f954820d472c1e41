"""Every family of the table of docs/models.md: the packed row equals the model as it was loaded.

Log-probabilities, the DPO loss and all gradients, those of the vision tower included, in float32. The plain
run has one family for each mechanism; `make test-all` runs the rest.
"""

import copy
import functools

import numpy as np
import pytest
import torch
import transformers
from families import (
    CHAT_TEMPLATE,
    FAMILIES,
    FINE,
    MODELS,
    PATCHES,
    PROCESSORS,
    QWEN_VIDEO,
    assert_same,
    dpo_loss,
    make_group,
    make_lm,
    make_model,
    make_tokenizer,
    step,
)
from safetensors.torch import save_file

from tempo import Prefix, load_model
from tempo.model.attention import NAME
from tempo.model.prefix import encode_videos, packed_log_probs
from tempo.model.support import duplicated_log_probs, prepare, self_check

PLAIN = {
    *FAMILIES, "ernie4_5_vl_moe", "gemma4", "lfm3_vl", "minicpmv4_6", "molmo2", "muse_glimmer",
    "perception_lm", "qwen2_5_omni", "qwen3_5",
}  # fmt: skip
#: Exact on inputs made by hand, but transformers 5.23 fails on what their own processors make: on chunks of
#: several frames, and on frames that are not resized.
REJECTED = {"kimi_k25": "split_with_sizes", "minimax_m3_vl": "invalid for input of size"}


def each_of(families):
    """The families as parameters; those that are not in the plain run are slow."""
    return [
        pytest.param(family, marks=[] if family in PLAIN else [pytest.mark.slow], id=family)
        for family in sorted(families)
    ]


def two_groups(family):
    """Videos of equal size and different content; answers of different lengths, one of one token."""
    lengths = {1: [6, 1, 9], 2: [4, 7]}
    return [make_group(family, num_steps=5, lengths=lengths[seed], seed=seed) for seed in lengths]


@pytest.mark.parametrize("family", each_of(MODELS))
def test_a_family_trains_as_the_model_that_was_loaded(family):
    groups = two_groups(family)
    with torch.no_grad():
        reference = duplicated_log_probs(make_model(family, seed=1, attention=False), groups)
    loss = functools.partial(dpo_loss, reference=reference)
    plain = make_model(family, attention=False).train()
    theirs = step(duplicated_log_probs, plain, loss, groups)
    ours = step(packed_log_probs, make_model(family).train(), loss, groups)
    assert any("language_model" not in name and "lm_head" not in name for name in theirs[2])
    assert_same(ours, theirs)


@pytest.mark.parametrize("family", ["qwen3_5", "lfm3_vl", "gemma4", "molmo2"])
def test_with_adapters_and_checkpointing(family):
    """One answer more than one token, one of one token, and a row of one group: the smallest batches."""
    from peft import LoraConfig, get_peft_model

    results = []
    for compute in (packed_log_probs, duplicated_log_probs):
        model = make_model(family, attention=compute is packed_log_probs)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")).train()
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        groups = [make_group(family, num_steps=3, lengths=[1, 1], seed=3)]
        loss = functools.partial(dpo_loss, reference=[[torch.tensor(-5.0)] * 2])
        results.append(step(compute, policy, loss, groups))
    assert_same(*results)


@pytest.mark.parametrize("family", each_of(PROCESSORS.keys() - REJECTED.keys()))
def test_a_family_is_accepted_with_its_own_processor(family):
    """Two videos, from frames and text to log-probabilities."""
    lm = make_lm(family, attention=False)
    prepare(lm)
    assert lm.model.config.get_text_config()._attn_implementation == NAME


@pytest.mark.parametrize(("family", "reason"), REJECTED.items())
def test_a_family_that_fails_in_transformers_itself_is_rejected_by_name(family, reason):
    with pytest.raises(ValueError, match=rf"model\.path: \w+ cannot be used: it fails on two .*{reason}"):
        prepare(make_lm(family, attention=False))


def test_a_copy_of_a_model_reads_with_its_own_weights():
    model, groups = make_model("qwen3_5"), two_groups("qwen3_5")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = packed_log_probs(twin, groups)[0][0]
        for parameter in model.parameters():
            parameter.mul_(0.5)
        assert torch.equal(packed_log_probs(twin, groups)[0][0], before)


def test_generation_of_a_recurrent_model_is_that_of_the_loaded_one():
    group = make_group("qwen3_5", num_steps=2, lengths=[1], seed=1)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    rows = [make_model("qwen3_5", attention=a).generate(**group.inputs, **options) for a in (True, False)]
    assert torch.equal(*rows)


@pytest.mark.parametrize("family", ["molmo2", "minicpmv4_6", "gemma4"])
def test_videos_whose_inputs_cannot_be_stacked(family):
    """Encoded together and alone they are the same."""
    model, groups = make_model(family), two_groups(family)
    with torch.no_grad():
        alone = [torch.cat([*encode_videos(model, [group])["video"].pooler_output]) for group in groups]
        together = encode_videos(model, groups)["video"].pooler_output
    assert torch.allclose(torch.cat([*together]), torch.cat(alone), atol=1e-5)


def test_a_window_longer_than_the_row_takes_the_packed_path():
    windows = []
    for size in (8, 4096):
        model, groups = make_model("muse_glimmer", sliding_window=size), two_groups("muse_glimmer")
        masks = []
        layer = model.model.language_model.layers[0]
        layer.register_forward_pre_hook(
            lambda *call, m=masks: m.append(call[2]["attention_mask"]), with_kwargs=True
        )
        assert self_check(model, groups) < 1e-5
        windows.append(masks[0].dtype)
    assert windows == [torch.bool, torch.int64]


@pytest.mark.parametrize(
    ("family", "name"), [("qwen2_5_omni", "Qwen2_5Omni"), ("qwen3_omni_moe", "Qwen3OmniMoe")]
)
def test_an_omni_checkpoint_is_loaded_as_its_thinker(family, name, tmp_path, monkeypatch):
    make_processor = getattr(transformers, f"{name}Processor")
    monkeypatch.setattr(
        make_processor, "videos_kwargs", {"size": {"shortest_edge": 64, "longest_edge": 4096}}
    )
    words = "vision_bos=<|vision_start|> vision_eos=<|vision_end|> video=<|video_pad|> image=<|image_pad|> "
    tokenizer = make_tokenizer(words + "audio=<audio> audio_bos=<bos> audio_eos=<eos>")
    make_processor(
        transformers.Qwen2VLImageProcessor(**PATCHES),
        transformers.Qwen2VLVideoProcessor(**FINE),
        transformers.WhisperFeatureExtractor(feature_size=8),
        tokenizer,
        chat_template=CHAT_TEMPLATE.replace("VIDEO", QWEN_VIDEO),
    ).save_pretrained(tmp_path)
    thinker = make_model(family, attention=False)
    weights = {f"thinker.{key}": value.clone() for key, value in thinker.state_dict().items()}
    save_file(weights | {"talker.x": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    getattr(transformers, f"{name}Config")(thinker_config=thinker.config.to_dict()).save_pretrained(tmp_path)
    lm = load_model(tmp_path)
    assert all(torch.equal(value, weights[f"thinker.{key}"]) for key, value in lm.model.state_dict().items())
    frames = np.zeros((8, 16, 24, 3), np.uint8)
    for rate in (1.0, 4.0):
        assert lm.group(Prefix(frames, "1", fps=rate), ["2"]).inputs["video_second_per_grid"] == 2 / rate
    lm.model.save_pretrained(tmp_path / "trained")
    lm.processor.save_pretrained(tmp_path / "trained")
    assert type(load_model(tmp_path / "trained").model) is type(lm.model)
