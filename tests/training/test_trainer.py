"""A phase: what it changes, what it writes, and that it can be repeated and resumed to the bit."""

import json

import pytest
import torch
from training_material import pairs_example, phase, questions_example, write_frames

from tempo.config import ModelConfig
from tempo.model import features as features_module
from tempo.model.features import FeatureStore
from tempo.model.loading import load_video_lm
from tempo.training import policy as policy_module
from tempo.training.policy import ReferenceStore
from tempo.training.trainer import PhaseContext, train_phase

PAIRS = [pairs_example(i) for i in range(4)]
QUESTIONS = [questions_example(i) for i in range(4)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Four videos of two frames."""
    return write_frames(tmp_path_factory.mktemp("run"), [2] * 4)


def train(frames, directory, settings, examples=PAIRS, *, model=None, **changes):
    """The trained weights, and the rows of metrics."""
    context = {"frames": frames, "seed": 0, "max_tokens": 4096, "directory": directory} | changes
    lm = load_video_lm(model or ModelConfig())
    trained = train_phase(lm, settings, examples, PhaseContext(**context))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return trained.model.state_dict(), rows


def timeless(rows):
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def assert_close(rows, others):
    for one, other in zip(timeless(rows), timeless(others), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_same_phase_gives_the_same_bits_and_reports_each_step(frames, tmp_path):
    seen = []

    def progress(step, num_steps, row):
        seen.append((step, num_steps))

    one, first = train(frames, tmp_path, phase(), progress=progress)
    other, second = train(frames, tmp_path, phase())
    assert timeless(first) == timeless(second)
    assert not changed(one, other)
    assert seen == [(1, 2), (2, 2)]


def test_dpo_raises_the_margin_on_what_it_trains(frames, tmp_path):
    warnings = []
    _, rows = train(frames, tmp_path, phase(epochs=8, nll_weight=0.0), warn=warnings.append)
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["rewards/margins"] > 0.5
    assert rows[-1]["loss"] < rows[0]["loss"]
    parts = [rows[-1][f"rewards/margins/{kind}"] for kind in ("drop", "reverse")]
    assert sum(parts) / 2 == pytest.approx(rows[-1]["rewards/margins"], abs=1e-5)
    (warning,) = warnings
    assert "every pair is right after the first step" in warning


def test_sft_lowers_the_loss_on_what_it_trains(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase(objective="sft", epochs=8), QUESTIONS)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("train_vision", [False, True])
def test_a_phase_changes_what_it_trains_and_nothing_else(frames, tmp_path, lora_rank, train_vision):
    # Two steps: at the first, LoRA's B is zero, and so is the gradient of A.
    settings = phase(objective="sft", lora_rank=lora_rank, train_vision=train_vision)
    after, _ = train(frames, tmp_path, settings, QUESTIONS)
    names = changed(load_video_lm(ModelConfig()).model.state_dict(), after)
    assert any("language_model.layers" in name for name in names)
    assert any(".visual." in name for name in names) is train_vision


def test_the_loss_is_a_mean_over_pairs_however_rows_are_packed(frames, tmp_path):
    lm = load_video_lm(ModelConfig())
    one_row = train(frames, tmp_path, phase(batch_size=4))[1][0]
    narrow = max(sum(example.load(lm, frames).lengths) for example in PAIRS)
    four_rows = train(frames, tmp_path / "narrow", phase(batch_size=4), max_tokens=narrow)[1][0]
    for name in ("loss", "grad_norm", "nll_loss", "rewards/chosen"):
        assert four_rows[name] == pytest.approx(one_row[name], rel=1e-4, abs=1e-5), name


def test_a_phase_of_a_single_step_learns(frames, tmp_path):
    after, rows = train(frames, tmp_path, phase(batch_size=4))
    assert len(rows) == 1
    assert changed(load_video_lm(ModelConfig()).model.state_dict(), after)


def test_a_loss_that_is_not_finite_stops_the_phase(frames, tmp_path):
    with pytest.raises(ValueError, match=r"phase 'p'.*learning_rate"):
        train(frames, tmp_path, phase(learning_rate=1e30, epochs=4, max_grad_norm=1e30))


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(step):
    def progress(done, num_steps, row):
        if done == step:
            raise Stopped

    return progress


def adaptive_examples():
    """Two levels of eight examples each."""
    return [
        pairs_example(i, level=level, rejected=("No.",), video=f"v{i % 4}")
        for i in range(8)
        for level in (2, 16)
    ]


@pytest.mark.parametrize(
    ("settings", "examples", "stops"),
    [
        ({"lora_rank": 0, "epochs": 3}, PAIRS, (2, 5)),
        ({"lora_rank": 4, "epochs": 3}, PAIRS, (2, 5)),
        ({"objective": "sft", "lora_rank": 4, "epochs": 3}, QUESTIONS, (2, 5)),
        (
            {"order": "adaptive", "mastered_accuracy": 0.4, "batch_size": 1},
            adaptive_examples(),
            (3, 6, 10),
        ),
    ],
    ids=["full", "lora", "sft", "adaptive"],
)
def test_a_stop_in_the_middle_changes_no_bit(frames, tmp_path, settings, examples, stops):
    settings = phase(**settings)
    whole, rows = train(frames, tmp_path / "whole", settings, examples)
    for step in stops:
        # The last saved state is that of the step before.
        with pytest.raises(Stopped):
            train(
                frames,
                tmp_path / "stopped",
                settings,
                examples,
                checkpoint_minutes=0,
                progress=stop_after(step),
            )
    again, others = train(frames, tmp_path / "stopped", settings, examples)
    assert timeless(others) == timeless(rows)
    assert not changed(whole, again)
    if settings.objective == "dpo" and settings.order == "adaptive":
        assert any("rewards/accuracies/level_2" in row for row in rows[:8]), "level 16 was never mastered"


def test_a_cached_reference_gives_the_same_training(frames, tmp_path):
    lm = load_video_lm(ModelConfig())
    store = ReferenceStore(tmp_path / "reference", key="m")
    store.fill(lm, [example.load(lm, frames) for example in PAIRS])
    _, live = train(frames, tmp_path / "live", phase(epochs=2))
    _, cached = train(frames, tmp_path / "cached", phase(epochs=2), reference=store)
    # Equal but for rounding: the store computed each group by itself, a row packs several.
    assert_close(live, cached)


@pytest.mark.parametrize("cache", [False, True])
def test_a_frozen_tower_runs_once_for_policy_and_reference(frames, tmp_path, monkeypatch, cache):
    seen = []
    encode_videos = features_module.encode_videos

    def encode(model, groups):
        seen.extend(groups)
        return encode_videos(model, groups)

    _, live = train(frames, tmp_path / "live", phase(epochs=2))
    monkeypatch.setattr(policy_module, "encode_videos", encode)
    monkeypatch.setattr(features_module, "encode_videos", encode)
    store = FeatureStore(tmp_path / "features", load_video_lm(ModelConfig()).model) if cache else None
    _, rows = train(frames, tmp_path, phase(epochs=2), features=store)
    # Two epochs over four videos; nothing is encoded twice if features are cached.
    assert len(seen) == (4 if cache else 8)
    assert_close(live, rows)


def test_a_row_has_its_time_and_rate(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase())
    for row in rows:
        assert 0 <= row["seconds/waiting"] < row["seconds"]
        # Two videos with two pairs each.
        assert row["pairs_per_second"] == pytest.approx(4 / row["seconds"], rel=1e-4)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_half_precision_model_learns(frames, tmp_path, lora_rank):
    settings = phase(epochs=6, lora_rank=lora_rank, nll_weight=0.0)
    after, rows = train(frames, tmp_path, settings, model=ModelConfig(dtype="bfloat16"))
    assert rows[-1]["rewards/margins"] > 0.3
    assert {value.dtype for value in after.values() if value.is_floating_point()} == {torch.bfloat16}


def test_four_bit_weights_learn_and_the_full_weights_keep_what_was_learned(frames, tmp_path):
    pytest.importorskip("bitsandbytes")
    after, rows = train(
        frames,
        tmp_path,
        phase(epochs=6, nll_weight=0.0),
        model=ModelConfig(quantization="4bit", device="cpu"),
        load_full=lambda: load_video_lm(ModelConfig(device="cpu")),
    )
    assert rows[-1]["rewards/margins"] > 0.3
    names = changed(load_video_lm(ModelConfig()).model.state_dict(), after)
    assert names
    assert all("language_model.layers" in name for name in names)
