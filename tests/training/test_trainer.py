"""A phase: what it changes, what it writes, and that it resumes to the bit."""

import json
import math
import re

import pytest
import torch
from sample_material import changed_model
from training_material import (
    Stopped,
    pairs_example,
    phase,
    questions_example,
    stop_after,
    timeless,
    train,
    write_frames,
)

from tempo.config import ModelConfig
from tempo.model.loading import load_model
from tempo.training import policy as policy_module

PAIRS = [pairs_example(i) for i in range(4)]
QUESTIONS = [questions_example(i) for i in range(4)]


@pytest.fixture
def frames(tmp_path):
    """Four videos of two frames."""
    return write_frames(tmp_path, [2] * 4)


def changed(before, after):
    """Names of the weights that differ between two models."""
    before, after = before.model.state_dict(), after.model.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_dpo_raises_the_margin_on_what_it_trains_and_reports_each_step(frames, tmp_path):
    seen, settings = [], phase(epochs=8, nll_weight=0.0)
    _, rows = train(frames, tmp_path, settings, PAIRS, progress=lambda *arguments: seen.append(arguments))
    assert seen == [(tmp_path, number, 16, row) for number, row in enumerate(rows, 1)]
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["rewards/margins"] > 0.5
    assert rows[-1]["loss"] < rows[0]["loss"]
    for row in rows:
        assert 0 <= row["seconds/waiting"] < row["seconds"]
        # Two videos with two pairs each.
        assert row["pairs_per_second"] == pytest.approx(4 / row["seconds"], rel=1e-4)


def test_sft_lowers_the_loss_on_what_it_trains(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase(objective="sft", epochs=8), QUESTIONS)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("parts", [["language_model"], ["merger"], ["language_model", "vision_tower"]])
def test_a_phase_changes_what_it_trains_and_nothing_else(frames, tmp_path, lora_rank, parts):
    # Two steps: at the first, LoRA's B is zero, and so is the gradient of A.
    settings, logged = phase(objective="sft", lora_rank=lora_rank, train=parts), []
    trained, _ = train(frames, tmp_path, settings, QUESTIONS, log=logged.append)
    names = changed(load_model("embedded"), trained.merged())
    found = {"language_model.layers": "language_model", ".visual.blocks": "vision_tower", ".merger": "merger"}
    assert {part for name in names for text, part in found.items() if text in name} == {*parts}
    counts = dict(re.findall(r"(language model|vision tower|merger) (\d[\d,]*\b)", logged[0]))
    assert {name.replace(" ", "_") for name, count in counts.items() if count != "0"} == {*parts}


@pytest.mark.parametrize(
    "changes", [{"lora_rank": 0}, {"lora_dropout": 0.5}, {"gradient_checkpointing": True}]
)
@pytest.mark.parametrize("model", [{"dtype": "bfloat16"}, {"path": "dropout"}])
@pytest.mark.parametrize("reference", ["reset", "fixed"])
def test_the_first_margin_is_zero(frames, tmp_path, changes, model, reference):
    """Policy and reference compute alike in half precision, and draw no dropout masks."""
    settings = ModelConfig(**model)
    if model.get("path"):
        settings = ModelConfig(path=changed_model(tmp_path / "model", "attention_dropout", 0.3))
    own = phase(reference=reference, **changes)
    _, (row, *_) = train(frames, tmp_path / "out", own, PAIRS, model=settings)
    assert row["rewards/margins"] == row["rewards/chosen"] == 0.0


def test_the_loss_is_a_mean_over_pairs_however_rows_are_packed(frames, tmp_path):
    # Two examples have more than 64 tokens.
    ((one_row,), (four_rows,)) = (
        train(frames, tmp_path / str(size), phase(batch_size=4), PAIRS, max_tokens=size)[1]
        for size in (4096, 64)
    )
    assert one_row["learning_rate"] > 0, "a phase of a single step has no warm-up"
    for name in ("loss", "grad_norm", "nll_loss", "rewards/chosen"):
        assert four_rows[name] == pytest.approx(one_row[name], rel=1e-4, abs=1e-5), name


def test_a_loss_that_is_not_finite_stops_the_phase(frames, tmp_path):
    settings = phase(learning_rate=1e30, epochs=4, max_grad_norm=1e30)
    with pytest.raises(ValueError, match=r"phase 'p': the loss is .*learning_rate"):
        train(frames, tmp_path, settings, PAIRS)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)


@pytest.mark.parametrize(
    ("settings", "examples", "stops"),
    [
        ({"lora_rank": 0, "epochs": 3}, PAIRS, (2, 5)),
        ({"lora_rank": 4, "epochs": 3}, PAIRS, (2, 5)),
        ({"objective": "sft", "lora_rank": 4, "epochs": 3}, QUESTIONS, (2, 5)),
        (
            {"order": "adaptive", "grouping": "level", "mastered_accuracy": 0.4, "batch_size": 1},
            # Two levels of eight examples each.
            [
                pairs_example(i, level=level, rejected=("No.",), video=f"v{i % 4}")
                for i in range(8)
                for level in (2, 16)
            ],
            (3, 6, 10),
        ),
    ],
    ids=["full", "lora", "sft", "adaptive"],
)
def test_a_stop_in_the_middle_changes_no_bit(frames, tmp_path, settings, examples, stops):
    settings, stopped = phase(**settings), tmp_path / "stopped"
    whole, rows = train(frames, tmp_path / "whole", settings, examples)
    for step in stops:
        # The last saved state is that of the step before.
        with pytest.raises(Stopped):
            train(frames, stopped, settings, examples, checkpoint_minutes=0, progress=stop_after(step))
    again, others = train(frames, stopped, settings, examples)
    assert timeless(others) == timeless(rows)
    assert not changed(whole.merged(), again.merged())
    if settings.objective == "dpo" and settings.order == "adaptive":
        assert any("rewards/accuracies/level_2" in row for row in rows[:8]), "level 16 was never mastered"


def test_a_frozen_tower_runs_once_for_policy_and_reference(frames, tmp_path, monkeypatch):
    seen, encode_videos = [], policy_module.encode_videos

    def encode(model, groups):
        seen.extend(groups)
        return encode_videos(model, groups)

    monkeypatch.setattr(policy_module, "encode_videos", encode)
    train(frames, tmp_path, phase(epochs=2), PAIRS)
    # Two epochs over four videos.
    assert len(seen) == 8


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_half_precision_model_learns(frames, tmp_path, lora_rank):
    # Few epochs, because CPUs multiply bfloat16 slowly.
    settings = phase(epochs=3, lora_rank=lora_rank, nll_weight=0.0, learning_rate=5e-3)
    after, rows = train(frames, tmp_path, settings, PAIRS, model=ModelConfig(dtype="bfloat16"))
    assert rows[-1]["rewards/margins"] > 0.3
    assert {p.dtype for p in after.merged().model.state_dict().values() if p.is_floating_point()} == {
        torch.bfloat16
    }


def test_four_bit_weights_learn_and_the_full_weights_keep_what_was_learned(frames, tmp_path):
    pytest.importorskip("bitsandbytes")
    after, rows = train(
        frames,
        tmp_path,
        phase(epochs=6, nll_weight=0.0),
        PAIRS,
        model=ModelConfig(quantization="4bit", device="cpu"),
    )
    assert rows[-1]["rewards/margins"] > 0.3
    names = changed(load_model("embedded"), after.merged())
    assert names
    assert all("language_model.layers" in name for name in names)
