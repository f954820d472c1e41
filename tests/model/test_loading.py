"""Loading checkpoints: paths, devices, and errors that name what is wrong."""

import shutil

import pytest
import torch
from safetensors.torch import load, save

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


def changed(name, change):
    """A function that replaces a file of a checkpoint by what `change` makes of its bytes; none remove it."""

    def prepare(directory):
        data = change((directory / name).read_bytes())
        (directory / name).unlink()
        if data:
            (directory / name).write_bytes(data)

    return prepare


def weights(change):
    return changed("model.safetensors", lambda data: save(change(load(data)), {"format": "pt"}))


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (changed("config.json", lambda data: b""), r"config\.json"),
        (changed("config.json", lambda data: b'{"model_type": "no_such_model"}'), "cannot be loaded"),
        (changed("model.safetensors", lambda data: b""), "cannot be loaded"),
        (changed("model.safetensors", lambda data: data[:9999]), "cannot be loaded: SafetensorError"),
        (changed("chat_template.jinja", lambda data: b"{% for %}"), "cannot be loaded: TemplateSyntaxError"),
        (
            changed("config.json", lambda data: data.replace(b"full_attention", b"chunked_attention")),
            r"Qwen2_5_VL.*chunked_attention",
        ),
        (
            weights(lambda old: {k: v for k, v in old.items() if k != NORM}),
            r"1 are missing \(model\.language_model\.norm\.weight\)\. Use",
        ),
        (
            weights(lambda old: {f"base_model.{k}": v for k, v in old.items()}),
            r"are missing \(.*, \.\.\.\); \d+ are unknown \(base_model\.",
        ),
        (
            weights(lambda old: old | {NORM: old[NORM][:-1].clone()}),
            r"1 are of another shape \(.*norm\.weight\)",
        ),
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
