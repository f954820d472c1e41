"""Loading checkpoints, and turning frames and words into groups."""

import numpy as np
import pytest
import torch

from tempo.config import ModelConfig
from tempo.model.attention import NAME
from tempo.model.loading import check_device, load_video_lm, pick_device, pick_dtype, use_shared_prefix
from tempo.model.paths import check_model_path

FRAMES = np.zeros((4, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def lm():
    return load_video_lm(ModelConfig())


def test_the_language_model_gets_the_attention_and_the_vision_tower_does_not(lm):
    assert lm.model.config.text_config._attn_implementation == NAME
    assert lm.model.config.vision_config._attn_implementation != NAME


def test_an_answer_group_is_video_and_prompt_then_answers(lm):
    group = lm.answer_group(FRAMES, "Describe.", ["One.", "Two words."], fps=1.0)
    text = lm.tokenizer.decode(group.inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user\n<|vision_start|><|video_pad|>")
    assert text.endswith("<|vision_end|>Describe.<|im_end|>\n<|im_start|>assistant\n")
    assert [lm.tokenizer.decode(c.token_ids) for c in group.continuations] == [
        "One.<|im_end|>",
        "Two words.<|im_end|>",
    ]
    assert [c.num_context for c in group.continuations] == [0, 0]


def test_a_question_group_shares_the_video_alone(lm):
    group = lm.question_group(FRAMES, [("Why?", "So."), ("Where?", "Here.")], fps=1.0)
    assert lm.tokenizer.decode(group.inputs["input_ids"][0]).endswith("<|vision_end|>")
    first = group.continuations[0]
    assert lm.tokenizer.decode(first.token_ids[: first.num_context]).endswith(
        "Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert lm.tokenizer.decode(first.token_ids[first.num_context :]) == "So.<|im_end|>"


def test_both_forms_make_the_same_sequence(lm):
    """What is trained as question and answer is, token for token, what is asked when generating."""
    asked = lm.answer_group(FRAMES, "Why is it so?", ["So."], fps=1.0)
    trained = lm.question_group(FRAMES, [("Why is it so?", "So.")], fps=1.0)
    sequences = [
        [*g.inputs["input_ids"][0].tolist(), *g.continuations[0].token_ids] for g in (asked, trained)
    ]
    assert sequences[0] == sequences[1]


def test_the_rate_of_the_frames_reaches_the_positions(lm):
    seconds = [
        lm.answer_group(FRAMES, "?", ["x"], fps=fps).inputs["second_per_grid_ts"] for fps in (1.0, 4.0)
    ]
    assert [float(s[0]) for s in seconds] == [2.0, 0.5]


def test_words_alone_need_no_frames(lm):
    group = lm.answer_group(None, "Describe.", ["x"], fps=1.0)
    assert "pixel_values_videos" not in group.inputs
    assert "video_pad" not in lm.tokenizer.decode(group.inputs["input_ids"][0])


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_named(path):
    with pytest.raises(ValueError, match=r"model\.path.*does not exist"):
        check_model_path(path)


@pytest.mark.parametrize("name", ["embedded", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_names_pass(name):
    assert check_model_path(name) is None


def test_a_directory_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        check_model_path(str(tmp_path))


def test_a_broken_checkpoint_is_one_clear_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_video_lm(ModelConfig(path=str(tmp_path)))


def test_a_family_with_sliding_windows_is_refused_by_name(lm):
    import copy

    model = copy.copy(lm.model)
    model.config = copy.deepcopy(lm.model.config)
    model.config.text_config.layer_types = ["sliding_attention"]
    with pytest.raises(ValueError, match=r"Qwen2_5_VL.*sliding_attention"):
        use_shared_prefix(model)


@pytest.mark.parametrize(("name", "counts"), [("cuda", 0), ("cuda:1", 1), ("cuda:3", 2)])
def test_device_that_the_machine_lacks_is_named(monkeypatch, name, counts):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counts)
    with pytest.raises(ValueError, match=f"model.device '{name}' is not on this machine"):
        check_device(name)


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1"])
def test_device_that_the_machine_has_passes(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device(name) is None


def test_devices_and_dtypes():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
