"""The list of phases: what each starts from, what its reference is, and that a stop loses nothing."""

import itertools
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sample_material import context_of, pair_of
from training_material import PROMPT, Stopped, stop_after, write_frames

from tempo.core.store import RunStore
from tempo.model.chat import Prefix
from tempo.model.loading import embedded_path, repair_torchvision
from tempo.training import adapters
from tempo.training.phases import Session, run_training
from tempo.video.frames import FrameStore


@pytest.fixture
def directory(tmp_path):
    """A run with pairs and frames of two videos."""
    write_frames(tmp_path, [2, 2])
    for number, level in itertools.product(range(2), (2, 16)):
        texts = {"prompt": PROMPT, "chosen": f"A red circle {number} moves left.", "rejected": "No."}
        RunStore(tmp_path).append("pairs", [pair_of(f"v{number}", "drop", level, (0,), **texts)])
    return tmp_path


def phase(name, level, **changes):
    settings = {"name": name, "objective": "dpo", "levels": [level], "learning_rate": 2e-3, "lora_rank": 4}
    return settings | {"lora_alpha": 8, "epochs": 3, "batch_size": 1} | changes


def train(directory, *phases, model=None, **session):
    training = {"phases": phases, "checkpoint_minutes": 0}
    run_training(Session(context_of(directory, training=training, model=model or {}), **session))
    rows = {}
    for path in sorted((directory / "train").glob("*/metrics.jsonl")):
        rows[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def test_phases_without_data_are_skipped_with_a_message(directory):
    assert train(directory) == {}
    assert not (directory / "model").exists()
    logged = []
    assert list(train(directory, phase("none", 8), phase("easy", 16), log=logged.append)) == ["02-easy"]
    assert logged[:1] == ["training: phase 'none' is skipped: no pair has its levels and kinds"]
    with pytest.raises(ValueError, match=r"there are no pairs to train on\. `tempo status`"):
        train(directory, phase("none", 8))


def test_the_reference_is_the_first_model_if_fixed_else_the_one_before_the_phase(directory):
    fixed = {"reference": "fixed", "epochs": 1}
    phases = [phase("easy", 16), phase("lora", 2, **fixed), phase("reset", 2)]
    # These load the first model again: without adapters, theirs has learned already.
    phases += [phase("full", 2, lora_rank=0, **fixed), phase("last", 2, **fixed)]
    first = [rows[0]["rewards/chosen"] for rows in train(directory, *phases).values()]
    assert first[0] == first[2] == 0.0
    assert min(abs(first[place]) for place in (1, 3, 4)) > 0.01


def test_a_stop_in_the_middle_of_a_phase_resumes_there(directory):
    phases, hard = [phase("easy", 16, epochs=1), phase("hard", 2)], directory / "train" / "02-hard"
    with pytest.raises(Stopped):
        train(directory, *phases, progress=stop_after(4))
    stopped = (hard / "metrics.jsonl").read_text().splitlines()
    # A kill while a state is written leaves a temporary file.
    (hard / ".state.safetensors.tmp").touch()
    seen = []
    rows = train(directory, *phases, progress=lambda place, step, steps, row: seen.append((place, step)))
    # Step 4 was taken but not saved.
    assert seen == [(hard, step) for step in (4, 5, 6)]
    assert [json.loads(line) for line in stopped[:3]] == rows["02-hard"][:3]
    margins = [json.loads(line) for line in (hard / "margins.jsonl").read_text().splitlines()]
    assert [[*row.values()] for row in margins] == [[row["rewards/margins"]] for row in rows["02-hard"]]
    assert sorted(path.name for path in hard.iterdir()) == ["done.json", "margins.jsonl", "metrics.jsonl"]
    assert (directory / "model" / "model.safetensors").exists()


EVERYTHING = ["language_model", "vision_tower", "merger"]


def kept(logged):
    """The shares of the margin, by dtype, in the line that closes a training."""
    line = next(line for line in logged if "of the margin" in line)
    return {dtype: float(share) for share, dtype in re.findall(r"([\d.]+)% in (\w+)", line)}


def test_lora_phases_stack_on_a_model_that_is_loaded_once(lm, directory, monkeypatch):
    loads, logged, load = [], [], adapters.load_model
    monkeypatch.setattr(adapters, "load_model", lambda **options: loads.append(options) or load(**options))
    phases = [phase("easy", 16, lora_rank=2), phase("hard", 2), phase("seen", 2, train=EVERYTHING)]
    rows = train(directory, *phases, log=logged.append)
    assert len(loads) == 1
    for steps in rows.values():
        assert steps[0]["rewards/margins"] == steps[0]["rewards/chosen"] == 0.0
        assert steps[-1]["rewards/margins"] > 0
    shares = kept(logged)
    assert shares["float32"] >= 99
    assert 90 < shares["bfloat16"] < 110
    # Beside the final model there is one adapter, with the ranks of all phases.
    files = [path for path in directory.rglob("*.safetensors") if "frames" not in path.parts]
    assert {path.parent.name for path in files} == {"model", "adapter"}
    weights = load_file(directory / "adapter" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {2 + 4 + 4}

    repair_torchvision()
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoProcessor.from_pretrained(directory / "model")
    plain, found = AutoModelForImageTextToText.from_pretrained(directory / "model", output_loading_info=True)
    assert not any(found.values())
    base = AutoModelForImageTextToText.from_pretrained(embedded_path(), dtype="float32")
    stacked = PeftModel.from_pretrained(base, directory / "adapter")
    assert stacked.peft_config["default"].base_model_name_or_path == str(embedded_path())
    frames = FrameStore(directory / "frames").read("v0").images
    inputs = dict(lm.group(Prefix(frames, PROMPT), ["A red circle."]).inputs)
    with torch.no_grad():
        one, two = (model.eval()(**inputs).logits for model in (plain.float(), stacked))
    assert torch.allclose(one, two, atol=1e-4)


def test_a_kill_between_adapter_and_marker_changes_no_byte(directory):
    phases = [phase("easy", 16, epochs=1), phase("hard", 2, epochs=1)]
    train(directory, *phases)
    names = ("model/model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")
    before = {name: (directory / name).read_bytes() for name in names}
    # The adapter on disk has the ranks of the second phase already.
    shutil.rmtree(directory / "train" / "02-hard")
    shutil.rmtree(directory / "model")
    train(directory, *phases)
    assert {name: (directory / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_phases_of_all_weights_start_from_the_merged_stack(directory, dtype):
    phases = [phase("easy", 16), phase("all", 2, lora_rank=0), phase("last", 2)]
    rows = train(directory, *phases, model={"dtype": dtype, "device": "cpu"})
    assert [steps[0]["rewards/margins"] for steps in rows.values()] == [0.0, 0.0, 0.0]
    assert rows["02-all"][0]["nll_loss"] != pytest.approx(rows["01-easy"][0]["nll_loss"], rel=1e-3)
    assert (directory / "train" / "02-all" / "model" / "model.safetensors").exists()
    weights = load_file(directory / "adapter" / "adapter_model.safetensors")
    # The stack on top of the checkpoint of the second phase.
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {4}
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, dtype)}
    config = json.loads((directory / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == str(directory / "train" / "02-all" / "model")


def test_five_phases_of_a_model_of_7b_need_little_disk():
    """Qwen2.5-VL-7B by its shapes, in bfloat16, with the ranks of `configs/paper.toml`."""
    repair_torchvision()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    text |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.29e9, rel=0.01)
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "merger" not in n]
    names.remove("lm_head")
    adapters.add_adapter(model, adapters.STACK, r=5 * 32, target_modules=names)
    size = 2 * sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    print(f"the adapter of five phases: {size / 1e9:.2f} GB")
    assert size < 1.5e9
