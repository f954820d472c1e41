"""Processes of `accelerate launch`: settings that would give a wrong result are errors."""

from sample_material import launch

from tempo.engine.ranks import call_to_training, num_processes, process_rank, wait_for_all

SCRIPT = "from tempo.engine.ranks import make_accelerator; print(make_accelerator('cpu').is_fsdp2)"


def test_shipped_settings_shard_the_weights_also_on_cpus(tmp_path):
    printed, errors = launch(tmp_path, SCRIPT)
    assert printed == "True", errors


def test_settings_that_would_give_a_wrong_result_are_all_named(tmp_path, monkeypatch):
    wrong = {
        "fsdp_cpu_ram_efficient_loading": "true",
        "fsdp_auto_wrap_policy": "SIZE_BASED_WRAP",
        "fsdp_activation_checkpointing": "true",
        "mixed_precision": "bf16",
        "fsdp_transformer_layer_cls_to_wrap": "Qwen2DecoderLayer",
    }
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    options = [word for key, value in wrong.items() for word in (f"--{key}", value)]
    printed, errors = launch(tmp_path, SCRIPT, *options)
    assert printed == ""
    (message,) = {line for line in errors.splitlines() if "ValueError: accelerate launch:" in line}
    for key in (*wrong, "gradient_accumulation_steps", "parallelism_config"):
        assert key in message
    assert "fsdp_version" not in message


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (process_rank(), num_processes()) == (0, 1)
    assert call_to_training("cpu", is_needed=True)
    assert not call_to_training("cpu", is_needed=False)
    wait_for_all()
