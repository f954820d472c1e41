"""The benchmarks: their rows, their measuring, and that all forms compute the same, at the smallest size."""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import engine as engine_benchmark
import flops
import gpu
import gpu_model
import harness
import ingest
import sft
import shared_prefix
from harness import Row, Summary
from material import Setting, count_tokens, load_lm, make_answer, make_group, make_material, make_pictures
from policies import flat_gradient, make_policy

from tempo.config import DpoPhase
from tempo.training.trainer import phase_loss

KEYS = [
    *("benchmark", "setting", "ours", "peer", "peer_name", "unit", "ratio"),
    *("gradient_difference", "peak_memory_ratio"),
]
TINY = Setting("embedded", "embedded", 16, 2, 8, steps=2, side=64)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


def row(**changes):
    values = {"benchmark": "b", "setting": "s", "ours": 6.0, "peer": 2.0, "peer_name": "p"}
    return Row.model_validate(values | {"unit": "pairs/s", "ratio": 3.0} | changes)


def summary(seconds, *, megabytes=10.0, gradient=(3.0, 4.0)):
    return Summary(seconds, megabytes, (0.7,), np.array(gradient))


@pytest.fixture(scope="module")
def packed():
    return shared_prefix.FORMS["packed"](TINY)


def test_a_file_of_rows_has_the_keys_of_the_contract(tmp_path):
    path = tmp_path / "out" / "bench.json"
    harness.add_rows([row()], path)
    assert [list(found) for found in json.loads(path.read_text())] == [KEYS]


def test_a_row_of_the_same_benchmark_setting_and_peer_is_replaced_and_others_stay(tmp_path):
    path = tmp_path / "bench.json"
    harness.add_rows([row(), row(peer_name="q"), row(setting="t")], path)
    harness.add_rows([row(ratio=4.0), row(benchmark="c")], path)
    assert [(found.key, found.ratio) for found in harness.read_rows(path)] == [
        (("b", "s", "p"), 4.0),
        (("b", "s", "q"), 3.0),
        (("b", "t", "p"), 3.0),
        (("c", "s", "p"), 3.0),
    ]


@pytest.mark.parametrize("text", ["{}", "[{}]", "[", '[{"benchmark": "b", "surprise": 1}]'])
def test_a_file_of_another_kind_is_refused_by_name_and_left_alone(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bench\.json is not a list of benchmark rows"):
        harness.add_rows([row()], path)
    assert path.read_text() == text


def test_a_rate_row_says_how_many_times_faster_and_leaner_ours_is():
    ours, peer = summary(0.5, megabytes=2), summary(2.0, megabytes=8, gradient=(3.0, 4.5))
    found = harness.rate_row("b", "s", ours=ours, peer=peer, peer_name="p", count=3, unit="pairs/s")
    assert (found.ours, found.peer, found.ratio, found.peak_memory_ratio) == (6.0, 1.5, 4.0, 0.25)
    assert found.gradient_difference == pytest.approx(0.5 / math.hypot(3, 4.5), rel=1e-2)


def test_a_fresh_process_is_another_one_and_hands_back_what_it_raises():
    assert harness.in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        harness.in_fresh_process(math.sqrt, -1.0)
    with pytest.raises(RuntimeError):
        harness.in_fresh_process(os._exit, 1)


def test_answers_have_exactly_the_tokens_that_were_asked_for():
    tokenizer = load_lm("embedded", side=64, threads=1).tokenizer
    for length in (3, 50):
        text = make_answer(tokenizer, length, "<|im_end|>\n", seed=0) + "<|im_end|>\n"
        assert count_tokens(tokenizer, text) == length
    with pytest.raises(ValueError, match="an answer of 2 tokens: with its ending it has 3"):
        make_answer(tokenizer, 2, "<|im_end|>\n", seed=0)


@pytest.mark.parametrize(("num_tokens", "side"), [(17, 64), (16, 48), (16, 16)])
def test_visual_tokens_that_no_pictures_give_are_refused(num_tokens, side):
    processor = load_lm("embedded", side=64, threads=1).processor
    with pytest.raises(ValueError, match=f"{num_tokens} visual tokens from pictures of {side} pixels"):
        make_pictures(processor, num_tokens, side)


def test_a_group_has_the_visual_tokens_and_answers_of_its_setting():
    material = make_material(TINY)
    group = make_group(material)
    picture = material.lm.model.config.image_token_id
    assert int((group.inputs["input_ids"] == picture).sum()) == TINY.num_visual_tokens
    assert group.lengths[1:] == (TINY.num_answer_tokens,) * (TINY.num_rejected + 1)
    assert len({answer.token_ids for answer in group.continuations}) == TINY.num_rejected + 1


@pytest.mark.parametrize(
    "name",
    [
        "duplicated",
        "duplicated, one batch",
        pytest.param("trl", marks=needs_trl),
        pytest.param("trl, accumulated", marks=needs_trl),
    ],
)
def test_every_form_takes_the_same_steps(name, packed):
    peer = shared_prefix.FORMS[name](TINY)
    assert len(peer.seconds) == TINY.steps
    assert peer.losses == pytest.approx(packed.losses, abs=1e-4)
    assert peer.losses[0] != pytest.approx(math.log(2), abs=1e-3), "policy and reference must differ"
    assert harness.relative_difference(packed.gradient, peer.gradient) < 1e-5


def test_ours_is_the_step_that_a_phase_takes(packed):
    material = make_material(TINY)
    policy, group = make_policy(material.lm.model), make_group(material)
    phase = DpoPhase(name="p", objective="dpo", learning_rate=1e-4, nll_weight=0)
    loss, _ = phase_loss(phase, *policy([group]), [()])
    mean = loss / TINY.num_rejected
    mean.backward()
    assert mean.item() == pytest.approx(packed.losses[0], rel=1e-6)
    assert harness.relative_difference(flat_gradient(policy.trained.values()), packed.gradient) < 1e-6


def test_questions_over_one_prefix_give_the_gradients_of_one_per_row():
    setting = sft.SftSetting("embedded", "embedded", 8, 3, 4, 6, side=64)
    ours, plain = (form(setting) for form in sft.FORMS.values())
    assert ours.losses == pytest.approx(plain.losses, rel=1e-5)
    assert harness.relative_difference(ours.gradient, plain.gradient) < 1e-5


def test_the_gpu_script_runs_from_end_to_end_on_a_cpu(capsys):
    gpu.main(["--tiny", "--steps", "1", "--peak-tflops", "1"])
    printed = capsys.readouterr().out
    for part in ("| packed ", "| duplicated ", "policy, backward", "of the peak of 1", "Self CPU time total"):
        assert part in printed


def test_the_operations_are_counted_from_the_weights_that_are_there():
    model = gpu_model.make_model(gpu_model.TINY, torch.device("cpu"), vision_attention="sdpa")
    layers = [m for m in model.model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    adapted = make_policy(model)
    adapters = sum(parameter.numel() for parameter in adapted.trained.values())
    assert flops.linear_weights(model.config.text_config, 32) == (weights, adapters)


def test_pairs_are_those_of_the_mask():
    lengths = (5, 3, 2)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:5, :5] = torch.ones(5, 5).tril().bool()
    for start, size in ((5, 3), (8, 2)):
        mask[start : start + size, :5] = True
        mask[start : start + size, start : start + size] = torch.ones(size, size).tril().bool()
    assert flops.attended_pairs(lengths) == int(mask.sum())


def test_the_work_of_a_step_grows_with_each_of_its_parts():
    config = gpu_model.make_model(gpu_model.SEVEN_B, torch.device("meta"), vision_attention="sdpa").config
    lengths = (11_564, 300, 300, 300, 300)
    parts = flops.step_parts(config, lengths, gpu_model.SEVEN_B.grid, lora_rank=32)
    assert flops.packed_step_flops(config, lengths, gpu_model.SEVEN_B.grid, lora_rank=32) == sum(
        parts.values()
    )
    # By hand: 28 layers of 233 M weights, six passes over 12,764 tokens, adapters left out.
    assert parts["linear"] == pytest.approx(6 * 28 * 233.0e6 * 12_764, rel=0.02)


def test_the_engine_benchmark_measures_a_pool_and_a_stage_in_which_nothing_is_done():
    assert 0 < engine_benchmark.overhead_seconds(3) < 1
    assert 0 < engine_benchmark.stage_seconds(3) < 1
    row = engine_benchmark.compare_costs("b", "s", "p", 0.0005, 0.001)
    assert (row.ours, row.peer, row.unit, row.ratio) == (0.5, 1.0, "ms/record", 2.0)


def test_the_ingest_benchmark_takes_what_it_renders_and_measures_every_form(tmp_path, capsys):
    ingest.render(tmp_path, 2)
    files = [found for path in sorted(tmp_path.iterdir()) if (found := ingest.examine(path))]
    rows = ingest.compare("rendered", files, rounds=1, max_gigabytes=1.0)
    assert "rendered: 2 of 2 files become clips" in capsys.readouterr().out
    assert [row.peer_name for row in rows] == ["pure decode", "released code's way", "decoding again"]
    assert min(rows[1].ratio, rows[2].ratio) > 1
