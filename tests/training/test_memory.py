"""The memory of a step, counted without data, is that of the same step with data."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tempo.config import DpoPhase, SftPhase
from tempo.model.chat import Prefix, VideoLM
from tempo.model.loading import load_model, load_processor, read_config
from tempo.training.memory import Simulator
from tempo.training.policy import Policy

WORDS = "a red circle moves left in the sea "


@pytest.fixture(scope="module")
def row():
    lm = VideoLM(None, load_processor("embedded"))
    frames = np.zeros((12, 64, 64, 3), np.uint8)
    return [lm.group(Prefix(frames, "Describe the video in detail."), [WORDS * 12] * 3)]


@pytest.fixture(scope="module")
def simulator():
    return Simulator(read_config("embedded"), dtype=torch.float32)


def phase(cls=DpoPhase, **options):
    return cls(name="p", objective="dpo" if cls is DpoPhase else "sft", learning_rate=1e-4, **options)


def take_step(row, options, path):
    """The peak in bytes of the second step with real weights, as torch's profiler sees the allocator."""
    policy = Policy(load_model("embedded", device="cpu").model, phase(**options), dtype=torch.float32)
    adam = torch.optim.AdamW(policy.trained.values())
    for is_measured in (False, True):
        with (
            profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            if is_measured
            else nullcontext() as seen
        ):
            torch.stack([logp.sum() for group in policy(row)[0] for logp in group]).sum().backward()
            adam.step()
            adam.zero_grad()
    seen.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    tensors = [*policy.parameters(), *policy.buffers(), *(t for s in adam.state.values() for t in s.values())]
    used = max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")
    return used + sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("rank", [32, 0])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_the_peak_is_that_of_a_step_with_data(row, simulator, rank, checkpointing, tmp_path):
    options = {"lora_rank": rank, "gradient_checkpointing": checkpointing}
    found = take_step(row, options, tmp_path / "trace.json")
    assert simulator.train(row, phase(**options)).peak_bytes == pytest.approx(found, rel=0.05)


def test_each_setting_changes_its_part(row, simulator):
    full, lora = simulator.train(row, phase(lora_rank=0)), simulator.train(row, phase())
    model = load_model("embedded", device="cpu").model
    assert full.weights_bytes == sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert (full.optimizer_bytes, full.reference_bytes) == (2 * full.gradients_bytes, full.weights_bytes)
    assert lora.adapters_bytes == lora.gradients_bytes < full.gradients_bytes
    assert simulator.train(row, phase(SftPhase, lora_rank=0)).reference_bytes == 0
    assert simulator.train(row, phase(train=("vision_tower",))).activations_bytes > 0
    assert simulator.train(row, phase(lora_rank=0), num_rows=2).peak_bytes > full.peak_bytes
    four_bit = Simulator(read_config("embedded"), dtype=torch.bfloat16, four_bit=True).train(row, phase())
    assert four_bit.weights_bytes < lora.weights_bytes / 4


def test_the_cache_of_generation_grows_with_batch_and_length(row, simulator):
    inputs = row[0].inputs
    one, two, longer = (
        simulator.generate(inputs, batch_size=batch, max_new_tokens=length)
        for batch, length in ((1, 50), (2, 50), (1, 50 + row[0].lengths[0] + 50))
    )
    text = read_config("embedded").text_config
    per_token = 2 * text.num_hidden_layers * text.hidden_size * 4
    assert one.cache_bytes == pytest.approx(per_token * (row[0].lengths[0] + 50), rel=0.1)
    assert two.cache_bytes == pytest.approx(2 * one.cache_bytes, rel=1e-6)
    assert longer.cache_bytes == pytest.approx(2 * one.cache_bytes, rel=1e-6)
