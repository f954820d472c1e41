"""A phase: what it changes, what it leaves, and that it can be repeated to the bit."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from tempo.config import ModelConfig, PhaseConfig
from tempo.model.loading import load_video_lm
from tempo.training.adapters import Policy
from tempo.training.groups import Label, Lesson, check_lengths
from tempo.training.reference import ReferenceStore
from tempo.training.trainer import Surroundings, train_phase
from tempo.video.frames import FrameStore, encode_jpeg

LESSONS = [
    Lesson(
        f"v{i}/2",
        f"v{i}",
        prompt="Describe the video in detail.",
        answers=(f"A red circle {i}.", "No.", "A b."),
        labels=(Label("drop", 2), Label("reverse", 2)),
    )
    for i in range(4)
]
QUESTIONS = [
    Lesson(f"v{i}/sft", f"v{i}", questions=(("What?", "A ring."), ("Is it?", "Yes."))) for i in range(4)
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Four videos of two random frames."""
    store = FrameStore(tmp_path_factory.mktemp("run") / "frames")
    for index in range(4):
        pictures = np.random.default_rng(index).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
        jpegs = [encode_jpeg(picture, 95) for picture in pictures]
        store.write(f"v{index}", jpegs, seconds=[0.5, 1.5], fps=1.0)
    return store


def phase(**changes):
    settings = {"name": "p", "objective": "dpo", "learning_rate": 2e-3, "batch_size": 2, "lora_rank": 4}
    return TypeAdapter(PhaseConfig).validate_python(settings | changes)


def train(frames, directory, settings, lessons=LESSONS, **changes):
    """The trained weights, and the rows of metrics."""
    lm = load_video_lm(ModelConfig())
    steps = []
    around = {
        "frames": frames,
        "seed": 0,
        "max_tokens": 4096,
        "directory": directory,
        "progress": lambda step, total, row: steps.append((step, total)),
    }
    trained = train_phase(lm, settings, lessons, Surroundings(**around | changes))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert steps == [(row["step"], len(rows)) for row in rows][-len(steps) :]
    return trained.model.state_dict(), rows


def test_the_same_phase_gives_the_same_bits(frames, tmp_path):
    one, first = train(frames, tmp_path, phase())
    other, second = train(frames, tmp_path, phase())
    assert [row["loss"] for row in first] == [row["loss"] for row in second]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dpo_raises_the_margin_on_what_it_trains(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase(epochs=8, nll_weight=0.0))
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["rewards/margins"] > 0.5
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_sft_lowers_the_loss_on_what_it_trains(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase(objective="sft", epochs=8), QUESTIONS)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("train_vision", [False, True])
def test_a_phase_changes_what_it_says_and_nothing_else(frames, tmp_path, lora_rank, train_vision):
    before = load_video_lm(ModelConfig()).model.state_dict()
    # Two steps: at the first, LoRA's B is zero, and so is the gradient of A.
    changes = {"objective": "sft", "lora_rank": lora_rank, "train_vision": train_vision}
    after, _ = train(frames, tmp_path, phase(**changes), QUESTIONS)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model.layers" in name for name in changed)
    assert any(".visual." in name for name in changed) is train_vision


def test_the_batch_is_a_mean_over_pairs_however_rows_are_packed(frames, tmp_path):
    lm = load_video_lm(ModelConfig())
    one_row = train(frames, tmp_path, phase(batch_size=4))[1][0]
    narrow = max(sum(lesson.group(lm, frames).lengths) for lesson in LESSONS)
    four_rows = train(frames, tmp_path / "narrow", phase(batch_size=4), max_tokens=narrow)[1][0]
    for name in ("loss", "grad_norm", "nll_loss", "rewards/chosen"):
        assert four_rows[name] == pytest.approx(one_row[name], rel=1e-4, abs=1e-5), name


def test_a_phase_of_a_single_step_learns(frames, tmp_path):
    before = load_video_lm(ModelConfig()).model.state_dict()
    after, rows = train(frames, tmp_path, phase(batch_size=4))
    assert len(rows) == 1
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_loss_that_is_not_finite_stops_the_phase(frames, tmp_path):
    with pytest.raises(ValueError, match=r"phase 'p'.*learning_rate"):
        train(frames, tmp_path, phase(learning_rate=1e30, epochs=4, max_grad_norm=1e30))


def test_a_gradient_that_is_not_finite_changes_nothing(frames, tmp_path, monkeypatch):
    """The loss may be finite where its gradient is not."""
    from tempo.training import learner

    real, seen = learner.row_loss, []

    def poisoned(answers, *rest):
        loss, metrics = real(answers, *rest)
        seen.append(loss)
        if len(seen) == 3:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, metrics

    monkeypatch.setattr(learner, "row_loss", poisoned)
    with pytest.raises(ValueError, match="norm of the gradient is"):
        train(frames, tmp_path, phase(epochs=3), checkpoint_minutes=0)
    monkeypatch.setattr(learner, "row_loss", real)
    _, rows = train(frames, tmp_path, phase(epochs=3))
    _, whole = train(frames, tmp_path / "whole", phase(epochs=3))
    assert timeless(rows) == timeless(whole)


def test_the_reference_is_the_policy_before_the_phase():
    lm = load_video_lm(ModelConfig())
    start = {name: value.clone() for name, value in lm.model.state_dict().items()}
    for rank in (0, 4):
        policy = Policy(load_video_lm(ModelConfig()).model, phase(lora_rank=rank))
        with torch.no_grad():
            for parameter in policy.parameters:
                parameter.add_(0.1)
        with policy.reference() as reference:
            state = reference.state_dict()
            kept = [
                n
                for n in start
                if torch.equal(start[n], state.get(n, state.get(_peft_name(n), torch.empty(0))))
            ]
        assert len(kept) == len(start), rank


def _peft_name(name):
    """How PEFT calls a weight that it has wrapped."""
    stem, _, leaf = name.rpartition(".")
    wrapped = f"base_model.model.{stem}.base_layer.{leaf}"
    return wrapped if "proj" in name and "language_model" in name else f"base_model.model.{name}"


def test_a_row_that_does_not_fit_is_named_before_training(frames):
    lm = load_video_lm(ModelConfig())
    with pytest.raises(ValueError, match=r"v\d/2.*training\.max_tokens is 10.*frames\.max_frames"):
        check_lengths(LESSONS, lm, frames, max_tokens=10)
    check_lengths(LESSONS, lm, frames, max_tokens=4096)


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(step):
    def progress(done, total, row):
        if done == step:
            raise Stopped

    return progress


def timeless(rows):
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


@pytest.mark.parametrize("objective", ["dpo", "sft"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_stop_in_the_middle_changes_nothing(frames, tmp_path, objective, lora_rank):
    settings = phase(objective=objective, lora_rank=lora_rank, epochs=3)
    lessons = LESSONS if objective == "dpo" else QUESTIONS
    whole, rows = train(frames, tmp_path / "whole", settings, lessons)
    for step in (2, 5):
        # The state of the step before is the last that was kept.
        changes = {"checkpoint_minutes": 0, "progress": stop_after(step)}
        with pytest.raises(Stopped):
            train(frames, tmp_path / "stopped", settings, lessons, **changes)
    again, others = train(frames, tmp_path / "stopped", settings, lessons)
    assert timeless(others) == timeless(rows)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def adaptive_lessons():
    """Two levels of eight lessons each."""
    return [
        Lesson(
            f"v{i}/{level}",
            f"v{i % 4}",
            prompt="Describe the video in detail.",
            answers=("A red circle.", "No."),
            labels=(Label("drop", level),),
        )
        for i in range(8)
        for level in (2, 16)
    ]


def test_an_adaptive_phase_is_stopped_without_a_trace(frames, tmp_path):
    settings = phase(order="adaptive", mastered_accuracy=0.4, batch_size=1)
    _, rows = train(frames, tmp_path / "whole", settings, adaptive_lessons())
    assert any("rewards/accuracies/level_2" in row for row in rows[:8]), "level 16 was never mastered"
    for step in (3, 6, 10):
        changes = {"checkpoint_minutes": 0, "progress": stop_after(step)}
        with pytest.raises(Stopped):
            train(frames, tmp_path / "stopped", settings, adaptive_lessons(), **changes)
    _, others = train(frames, tmp_path / "stopped", settings, adaptive_lessons())
    assert timeless(others) == timeless(rows)


def test_a_reference_on_disk_gives_the_same_training(frames, tmp_path):
    lm = load_video_lm(ModelConfig())
    store = ReferenceStore(tmp_path / "reference", key="m")
    store.fill(lm, [lesson.group(lm, frames) for lesson in LESSONS])
    _, live = train(frames, tmp_path / "live", phase(epochs=2))
    _, kept = train(frames, tmp_path / "kept", phase(epochs=2), reference=store)
    for one, other in zip(timeless(live), timeless(kept), strict=True):
        # The store holds each group by itself, a row holds several: equal but for rounding.
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_a_row_says_where_its_time_went_and_how_fast_it_was(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase())
    for row in rows:
        parts = [row[f"seconds/{name}"] for name in ("vision", "language_model", "waiting")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["seconds"], rel=0.2)
        # Two videos of one time step with four visual tokens, and two pairs of each.
        assert row["visual_tokens_per_second"] / row["pairs_per_second"] == pytest.approx(2, rel=1e-3)


def test_metrics_are_also_kept_by_level_and_kind(frames, tmp_path):
    _, rows = train(frames, tmp_path, phase(epochs=4))
    row = rows[-1]
    halves = [row[f"rewards/margins/{kind}"] for kind in ("drop", "reverse")]
    assert sum(halves) / 2 == pytest.approx(row["rewards/margins"], abs=1e-5)
    assert row["rewards/margins/level_2"] == pytest.approx(row["rewards/margins"], abs=1e-5)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_half_precision_model_learns(frames, tmp_path, lora_rank):
    lm = load_video_lm(ModelConfig(dtype="bfloat16"))
    around = Surroundings(frames=frames, seed=0, max_tokens=4096, directory=tmp_path)
    trained = train_phase(lm, phase(epochs=6, lora_rank=lora_rank, nll_weight=0.0), LESSONS, around)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["rewards/margins"] > 0.3
    assert trained.model.dtype == torch.bfloat16


def test_features_on_disk_give_the_same_training(frames, tmp_path):
    from tempo.model.features import FeatureStore

    _, live = train(frames, tmp_path / "live", phase(epochs=2))
    store = FeatureStore(tmp_path / "features", load_video_lm(ModelConfig()).model)
    for turn in ("written", "read"):
        _, kept = train(frames, tmp_path / turn, phase(epochs=2), features=store)
        for one, other in zip(timeless(live), timeless(kept), strict=True):
            assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("cache", [False, True])
def test_a_frozen_tower_runs_once_for_policy_and_reference(frames, tmp_path, monkeypatch, cache):
    from tempo.model import features
    from tempo.training import step

    seen = []
    real = features.encode_videos

    def encode(model, groups):
        seen.extend(groups)
        return real(model, groups)

    monkeypatch.setattr(step, "encode_videos", encode)
    monkeypatch.setattr(features, "encode_videos", encode)
    lm = load_video_lm(ModelConfig())
    store = features.FeatureStore(tmp_path / "features", lm.model) if cache else None
    train(frames, tmp_path, phase(epochs=2), features=store)
    # Two epochs over four videos; with the store nothing is seen twice.
    assert len(seen) == (4 if cache else 8)


def test_four_bits_learn_and_the_whole_weights_keep_what_was_learned(frames, tmp_path):
    pytest.importorskip("bitsandbytes")
    lm = load_video_lm(ModelConfig(quantization="4bit", device="cpu"))
    around = Surroundings(
        frames=frames,
        seed=0,
        max_tokens=4096,
        directory=tmp_path,
        load_whole=lambda: load_video_lm(ModelConfig(device="cpu")),
    )
    trained = train_phase(lm, phase(epochs=6, nll_weight=0.0), LESSONS, around).model
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["rewards/margins"] > 0.3
    before = load_video_lm(ModelConfig()).model.state_dict()
    after = trained.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("language_model.layers" in name for name in changed)
