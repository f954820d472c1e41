"""A phase: what it changes, what it leaves, and that it can be repeated to the bit."""

import json

import numpy as np
import pytest
import torch

from tempo.model.loading import load_video_lm
from tempo.sections import ModelConfig, PhaseConfig
from tempo.training.adapters import Policy
from tempo.training.groups import Lesson, check_lengths
from tempo.training.trainer import _batches, train_phase
from tempo.video.frames import FrameStore, encode_jpeg

LESSONS = [
    Lesson(
        f"v{i}/2",
        f"v{i}",
        prompt="Describe the video in detail.",
        answers=(f"A red circle {i}.", "No.", "A b."),
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
    return PhaseConfig.model_validate(settings | changes)


def train(frames, tmp_path, settings, lessons=LESSONS, *, seed=0):
    """The trained weights, and the rows of metrics."""
    lm = load_video_lm(ModelConfig())
    path = tmp_path / "metrics.jsonl"
    steps = []
    trained = train_phase(
        lm,
        settings,
        lessons,
        frames=frames,
        seed=seed,
        max_tokens=4096,
        metrics_path=path,
        progress=lambda step, total, row: steps.append((step, total)),
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert steps == [(row["step"], len(rows)) for row in rows]
    return trained.model.state_dict(), rows


def test_the_same_phase_gives_the_same_bits(frames, tmp_path):
    one, first = train(frames, tmp_path, phase())
    other, second = train(frames, tmp_path, phase())
    assert [row["loss"] for row in first] == [row["loss"] for row in second]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_takes_the_lessons_in_another_order(frames):
    orders = [
        [lesson.id for batch in _batches(LESSONS, phase(epochs=3), seed) for lesson in batch]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert all(sorted(order) == sorted([lesson.id for lesson in LESSONS] * 3) for order in orders)


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
    settings = phase(batch_size=4)
    groups = [lesson.group(lm, frames) for lesson in LESSONS]
    narrow = max(sum(group.lengths) for group in groups)
    trained = train_phase(
        lm,
        settings,
        LESSONS,
        frames=frames,
        seed=0,
        max_tokens=narrow,
        metrics_path=tmp_path / "narrow.jsonl",
        progress=lambda *_: None,
    )
    assert trained is not None
    four_rows = json.loads((tmp_path / "narrow.jsonl").read_text().splitlines()[0])
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
