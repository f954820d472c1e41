"""The benchmarks at the smallest size: rows, measurements, and that all forms compute the same."""

import html
import math
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import coverage
import engine as engine_benchmark
import flops
import generation
import gpu
import gpu_model
import grouping
import harness
import ingest
import packing
import scale
import sft
import shared_prefix
from harness import Row
from material import Setting, count_tokens, load_lm, make_answer, make_group, make_material
from policies import flat_gradient, make_policy
from tiny_film import film

from research.study.config import load_study
from tempo.config import DpoPhase
from tempo.training.examples import Example
from tempo.training.trainer import phase_loss

TINY = Setting("embedded", "embedded", 16, 2, 8, steps=2, side=64)


def row(**changes):
    values = {"benchmark": "b", "setting": "s", "ours": 6.0, "peer": 2.0, "peer_name": "p"}
    return Row.model_validate(values | {"unit": "pairs/s", "ratio": 3.0} | changes)


@pytest.fixture(scope="module")
def packed():
    return shared_prefix.FORMS["packed"](TINY)


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


def test_the_benchmark_of_generation_counts_tokens_of_both_loops(capsys):
    generation.main(["--prompts", "2", "--tokens", "24", "--rounds", "1", "--trial"])
    shown = capsys.readouterr().out
    assert "2 demo answers of up to 256 tokens" in shown
    assert "2 ragged answers of up to 24 tokens" in shown


@pytest.mark.parametrize("text", ["{}", "[", '[{"benchmark": "b", "surprise": 1}]'])
def test_a_file_with_other_content_is_refused_by_name_and_not_changed(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bench\.json is not a list of benchmark rows"):
        harness.add_rows([row()], path)
    assert path.read_text() == text


def test_a_fresh_process_is_a_new_one_and_its_error_is_raised_here():
    assert harness.in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        harness.in_fresh_process(math.sqrt, -1.0)


def test_answers_have_the_requested_number_of_tokens():
    tokenizer = load_lm("embedded", side=64, threads=1).tokenizer
    for length in (3, 50):
        text = make_answer(tokenizer, length, "<|im_end|>\n", seed=0) + "<|im_end|>\n"
        assert count_tokens(tokenizer, text) == length


def test_a_group_has_the_visual_tokens_and_answers_of_its_setting():
    material = make_material(TINY)
    group = make_group(material)
    image_token = material.lm.model.config.image_token_id
    assert int((group.inputs["input_ids"] == image_token).sum()) == TINY.num_visual_tokens
    assert group.lengths[1:] == (TINY.num_answer_tokens,) * (TINY.num_rejected + 1)
    assert len({answer.token_ids for answer in group.continuations}) == TINY.num_rejected + 1


@pytest.mark.parametrize("name", list(shared_prefix.FORMS)[1:])
def test_every_form_has_the_same_losses_and_gradient(name, packed):
    if name.startswith("trl"):
        pytest.importorskip("trl")
    peer = shared_prefix.FORMS[name](TINY)
    assert len(peer.seconds) == TINY.steps
    assert peer.losses == pytest.approx(packed.losses, abs=1e-4)
    assert peer.losses[0] != pytest.approx(math.log(2), abs=1e-3), "policy and reference must differ"
    assert harness.relative_difference(packed.gradient, peer.gradient) < 1e-5


def test_our_form_is_the_step_of_a_training_phase(packed):
    material = make_material(TINY)
    policy, group = make_policy(material.lm.model), make_group(material)
    phase = DpoPhase(name="p", objective="dpo", learning_rate=1e-4, nll_weight=0)
    loss, _ = phase_loss(phase, *policy([group]), [Example("", "")])
    mean = loss / TINY.num_rejected
    mean.backward()
    assert mean.item() == pytest.approx(packed.losses[0], rel=1e-6)
    assert harness.relative_difference(flat_gradient(policy.trained.values()), packed.gradient) < 1e-6


def test_rows_without_padding_have_the_gradients_of_padded_and_of_separate_rows():
    setting = packing.PackingSetting((16, 32), (8, 6, 7), steps=1, side=64, threads=1)
    packed, *others = (form(setting) for form in packing.FORMS.values())
    for other in others:
        assert other.losses == pytest.approx(packed.losses, rel=1e-5)
        assert harness.relative_difference(packed.gradient, other.gradient) < 1e-5
    groups = packing.make_groups(setting)[1]
    sizes = {form: packing.num_tokens(packing.rows_of(groups, form)) for form in packing.FORMS}
    assert sizes["packed"] == sizes["a row each"] < sizes["padded"] == 2 * sum(groups[1].lengths)


def test_the_study_of_groupings_names_its_rows_by_their_phases():
    study, _ = load_study(grouping.CONFIG)
    for name, row in study.rows.items():
        made, rows, epochs = name.split("_")
        if made != "levels":
            options = {"grouping": made, "batch_size": int(rows), "epochs": int(epochs)}
            assert {key: row.dpo[key] for key in options} == options
    examples = [Example("e", "v", answers=("a",) * count) for count in (2, 4, 13)]
    pair, level, video = (grouping.seven_flops([example]) for example in examples)
    assert 3 < 4 * level / video < 12 * pair / video < 10


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


def test_the_large_model_has_the_size_of_the_published_one():
    model = gpu_model.make_model(gpu_model.SEVEN_B, torch.device("meta"), vision_attention="sdpa")
    # The published checkpoint has 8,292,166,656 parameters.
    assert sum(p.numel() for p in model.parameters()) == 8_292_166_656
    assert math.prod(gpu_model.SEVEN_B.grid) // 4 == 11_520


def test_attended_pairs_are_those_of_the_mask():
    lengths = (5, 3, 2)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:5, :5] = torch.ones(5, 5).tril().bool()
    for start, size in ((5, 3), (8, 2)):
        mask[start : start + size, :5] = True
        mask[start : start + size, start : start + size] = torch.ones(size, size).tril().bool()
    assert flops.attended_pairs(lengths) == int(mask.sum())


def test_the_engine_benchmarks_measure_a_pool_and_an_empty_stage():
    assert 0 < engine_benchmark.overhead_seconds(3) < 1
    found = scale.measure(9, "model", "local")
    assert 0 < found["resume, s"] < found["start, s"] + 1
    assert scale.measure_reading(8)["report, s"] > 0


def test_the_ingest_benchmark_accepts_its_own_videos_and_measures_every_form(tmp_path, capsys):
    ingest.render(tmp_path, 1)
    files = [found for path in sorted(tmp_path.iterdir()) if (found := ingest.examine(path))]
    rows = ingest.compare("rendered", files, rounds=1, max_gigabytes=1.0)
    assert "rendered: 1 of 1 files become clips" in capsys.readouterr().out
    assert [row.peer_name for row in rows] == ["pure decode", "released code's way", "decoding again"]
    assert min(rows[1].ratio, rows[2].ratio) > 1


def test_the_coverage_benchmark_shows_the_clips_of_every_file_or_why_it_has_none(
    tmp_path, capsys, monkeypatch
):
    ingest.render(tmp_path, 1)
    film(tmp_path / "short.mp4")
    monkeypatch.setattr(sys, "argv", ["coverage.py", str(tmp_path), "--out", str(tmp_path / "out")])
    coverage.main()
    told = ["000.mp4: 6 clips from 0 s", "short.mp4: too few shots (0 usable shots, min_shots is 4)"]
    assert capsys.readouterr().out.splitlines()[:3] == [*told, "1 of 2 readable files become clips"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(html.escape(text) in page for text in told)
    assert page.count("<figure>") == 6 + coverage.NUM_FRAMES
