"""Loading checkpoints: paths, devices, and errors that name what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo import load_model
from tempo.model.attention import NAME, shared_prefix_attention
from tempo.model.loading import check_device, check_model_path, embedded_path, repair_torchvision


def test_only_the_language_model_gets_the_attention():
    model = load_model("embedded", dtype="bfloat16").model
    assert model.config.text_config._attn_implementation == NAME
    assert model.config.vision_config._attn_implementation != NAME
    assert (model.dtype, model.training) == (torch.bfloat16, False)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_named(path):
    with pytest.raises(ValueError, match=r"model\.path.*does not exist"):
        check_model_path(path)


@pytest.mark.parametrize("name", ["embedded", "Qwen/Qwen2.5-VL-7B-Instruct", str(embedded_path())])
def test_paths_and_hub_names_are_accepted(name):
    check_model_path(name)


def no_config(directory):
    (directory / "config.json").unlink()


def unknown_family(directory):
    (directory / "config.json").write_text('{"model_type": "no_such_model"}')


def no_weights(directory):
    for file in directory.glob("*.safetensors*"):
        file.unlink()


def half_a_download(directory):
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(9999)


def bad_template(directory):
    (directory / "chat_template.jinja").write_text("{% for %}")


def chunked(directory):
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["layer_types"] = ["chunked_attention"] * config["text_config"]["num_hidden_layers"]
    (directory / "config.json").write_text(json.dumps(config))


def with_weights(change):
    """A function that copies the embedded checkpoint with changed weights."""

    def prepare(directory):
        weights = load_file(directory / "model.safetensors")
        save_file(change(weights), directory / "model.safetensors", metadata={"format": "pt"})

    return prepare


NORM = "model.norm.weight"
without_norm = with_weights(lambda weights: {k: v for k, v in weights.items() if k != NORM})
prefixed = with_weights(lambda weights: {f"base_model.{k}": v for k, v in weights.items()})
short_norm = with_weights(lambda weights: weights | {NORM: weights[NORM][:-1].clone()})


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (no_config, r"config\.json"),
        (unknown_family, "cannot be loaded"),
        (no_weights, "cannot be loaded"),
        (half_a_download, "cannot be loaded: SafetensorError"),
        (bad_template, "cannot be loaded: TemplateSyntaxError"),
        (chunked, r"Qwen2_5_VL.*chunked_attention"),
        (without_norm, r"1 are missing \(model\.language_model\.norm\.weight\)\. Use"),
        (prefixed, r"are missing \(.*, \.\.\.\); \d+ are unknown \(base_model\."),
        (short_norm, r"1 are of another shape \(.*norm\.weight\)"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_bad_checkpoint_is_one_clear_error(tmp_path, capfd, prepare, message, device):
    shutil.copytree(embedded_path(), tmp_path / "model")
    prepare(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"model\.path.*{message}"):
        load_model(tmp_path / "model", device=device)
    assert capfd.readouterr().err == ""


def test_a_model_whose_packed_rows_are_wrong_is_refused_before_any_work(tmp_path, monkeypatch):
    repair_torchvision()
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def causal(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    shutil.copytree(embedded_path(), tmp_path / "model")
    monkeypatch.setattr("tempo.model.support.shared_prefix_attention", causal)
    try:
        with pytest.raises(ValueError, match=r"model\.path: Qwen2_5_VL.*relative difference"):
            load_model(tmp_path / "model")
    finally:
        AttentionInterface.register(NAME, shared_prefix_attention)
    monkeypatch.undo()
    assert load_model(tmp_path / "model").model.config.text_config._attn_implementation == NAME


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:1", 1), ("cuda:3", 2)])
def test_a_device_that_the_machine_lacks_is_named(monkeypatch, name, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=f"model.device '{name}' is not on this machine"):
        check_device(name)
