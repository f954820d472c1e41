"""GRPO: rewards, the clipped loss, and that a phase trains on exactly what the policy wrote."""

import itertools
import math
from statistics import stdev

import pytest
import torch
from sample_material import context_of, pair_of
from training_material import Stopped, phase, stop_after, timeless, train, write_frames

from tempo.config import SftPhase
from tempo.core.records import Captions
from tempo.core.store import RunStore
from tempo.model import generate as generate_module
from tempo.model import sampling as sampling_module
from tempo.model.answers import Answer
from tempo.model.loading import load_model
from tempo.model.prefix import packed_log_probs
from tempo.model.support import duplicated_log_probs
from tempo.training import grpo
from tempo.training.grpo import Sampler, group_advantages, grpo_examples, grpo_loss, score_answers
from tempo.training.metrics import Metrics
from tempo.training.order import Batch
from tempo.training.policy import Policy
from tempo.training.trainer import phase_loss

CAPTIONS = ("A red circle moves left in the sea.", "A blue ring grows in the cave.")
SHORT = {"max_new_tokens": 12}


def grpo_phase(**changes):
    return phase(**{"objective": "grpo", "num_answers": 3, "learning_rate": 1e-3} | changes)


@pytest.fixture
def frames(tmp_path):
    """Three videos of two frames with captions."""
    rows = [Captions(id=f"v{index}", captions=CAPTIONS) for index in range(3)]
    RunStore(tmp_path).append("captions", rows)
    return write_frames(tmp_path, [2] * 3)


def context(directory, settings=None, *, responses=SHORT, max_tokens=4096):
    phases = [settings.model_dump()] if settings else []
    training = {"max_tokens": max_tokens, "phases": phases}
    return context_of(directory, training=training, responses=responses)


def answer(text, *, is_whole=True):
    return Answer(text, is_whole, token_ids=(1, 2, 3))


def test_rewards_by_hand():
    one, two = CAPTIONS
    texts = [f"{one} {two}", f"{two} {one}", two, f"{one} {one} {two}", ""]
    answers = [*map(answer, texts), answer(f"{one} {two}", is_whole=False)]
    metrics, settings = Metrics(), grpo_phase(recall_weight=2.0, order_weight=3.0)
    rewards = [5, 2, 1, 5 * 2 / 3, 0, 0]
    assert score_answers(answers, CAPTIONS, settings, metrics) == pytest.approx(rewards)
    means = {"reward": sum(rewards) / 6, "recall": 3.5 / 6, "order": 2 / 6, "precision": (3 + 2 / 3) / 6}
    means |= {"reward_std": stdev(rewards), "length": 3, "cut_off": 1 / 6}
    assert metrics.means() == pytest.approx(means)


def test_advantages_by_hand():
    assert group_advantages([1.0, 2.0, 3.0]) == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
    assert group_advantages([0.5, 0.5]) == [0, 0]


def test_the_loss_by_hand():
    """Ratios 1.5, 1 and 0.5 for advantage 2, and 1.5 and 0.5 for -1; clipped at 0.8 and 1.28."""
    ratios = [[1.5, 1.0, 0.5], [1.5, 0.5]]
    old = [torch.tensor([-1.0] * len(row)) for row in ratios]
    policy = [torch.tensor(row).log() - 1 for row in ratios]
    losses = [[-2 * 1.28, -2.0, -2 * 0.5], [1.5, 0.8]]
    loss, metrics = grpo_loss(policy, old, [2.0, -1.0])
    assert float(loss) == pytest.approx(sum(map(sum, losses)))
    assert metrics.means()["clip_ratio"] == pytest.approx(2 / 5)
    loss, _ = grpo_loss(policy, old, [2.0, -1.0], loss_type="grpo")
    assert float(loss) == pytest.approx(sum(losses[0]) / 3 + sum(losses[1]) / 2)
    loss, _ = grpo_loss(policy, old, [2.0, -1.0], epsilon=0.6, epsilon_high=1.0)
    assert float(loss) == pytest.approx(-2 * 3.0 + 1.5 - 0.5 * -1)


@pytest.fixture
def sampled(frames, tmp_path, monkeypatch):
    """A policy, a batch of its answers to two videos, and the log-probabilities while it was sampling."""
    drawn, choose, settings = [], sampling_module._choose, grpo_phase()

    def record(scores, draws, temperature):
        chosen = choose(scores, draws, temperature)
        logp = (scores / temperature).log_softmax(dim=-1)
        drawn.append(logp.gather(-1, chosen[..., None])[:, 0, 0])
        return chosen

    monkeypatch.setattr(sampling_module, "_choose", record)
    # One token in each step.
    monkeypatch.setattr(sampling_module, "_MIN_RIGHT", 2)
    lm, run = load_model("embedded"), context(tmp_path, settings, responses={"max_new_tokens": 4})
    torch.manual_seed(0)
    policy = Policy(lm.model, settings, dtype=torch.float32)
    for name, parameter in policy.trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    sampler = Sampler(run, settings, lm, policy)
    examples = grpo_examples(run)[:2]
    batch = sampler(Batch([(example, sampler.load(example)) for example in examples]), 1)
    return policy, batch, torch.stack(drawn, dim=1)


def test_the_loss_is_about_exactly_what_was_sampled(sampled):
    policy, batch, drawn = sampled
    groups = [group for _, group in batch.examples]
    own = packed_log_probs(policy.model, groups)
    for logp, expected in zip(itertools.chain(*own), drawn, strict=True):
        assert torch.allclose(logp, expected[: len(logp)], atol=1e-5)
    assert len({c.token_ids for group in groups for c in group.continuations}) > 3


def test_gradients_equal_those_of_one_sequence_per_answer(sampled):
    policy, batch, _ = sampled
    examples, groups = zip(*batch.examples, strict=True)
    examples = [grpo.replace(example, advantages=(1.0, -0.5, -0.5)) for example in examples]
    with torch.no_grad():
        old = packed_log_probs(policy.model, groups)
    found = {}
    for form in (packed_log_probs, duplicated_log_probs):
        # Some ratios differ from 1, and some are clipped.
        before = [[logp + 0.3 * torch.arange(-1, len(logp) - 1) for logp in group] for group in old]
        loss, metrics = phase_loss(grpo_phase(), form(policy.model, groups), before, examples)
        gradients = torch.autograd.grad(loss, list(policy.trained.values()))
        found[form] = float(loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])
        assert 0 < metrics.means()["clip_ratio"] < 1
    (loss, gradient), (other_loss, other) = found.values()
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert float((gradient - other).norm() / other.norm()) < 1e-5


def test_answers_that_exceed_a_row_are_divided(frames, tmp_path, monkeypatch):
    lm, settings, found = load_model("embedded"), grpo_phase(num_answers=6), []
    policy = Policy(lm.model, settings, dtype=torch.float32)

    def sample(*arguments, **options):
        assert sampler.lock.locked(), "the tokenizer is not for two threads at a time"
        return generate_module.generate(*arguments, **options)

    monkeypatch.setattr(grpo, "generate", sample)
    for max_tokens in (4096, 64):
        sampler = Sampler(context(tmp_path, settings, max_tokens=max_tokens), settings, lm, policy)
        example = grpo_examples(sampler.context)[0]
        found.append(sampler(Batch([(example, sampler.load(example))]), 1).examples)
    ((whole, group),), parts = found
    assert len(parts) > 1
    assert sum((part.advantages for part, _ in parts), ()) == whole.advantages
    assert sum((one.continuations for _, one in parts), ()) == group.continuations


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_phase_raises_the_reward(frames, tmp_path, loss_type, monkeypatch):
    """Answers are rewarded for their share of the word `red`."""

    def count_red(answers, captions, phase, metrics):
        rewards = [answer.text.count("red") / len(answer.token_ids) for answer in answers]
        metrics.count("reward", sum(rewards), len(rewards))
        return rewards

    monkeypatch.setattr(grpo, "score_answers", count_red)
    settings = grpo_phase(epochs=12, batch_size=3, num_answers=8, loss_type=loss_type)
    examples = grpo_examples(context(tmp_path))
    _, rows = train(frames, tmp_path, settings, examples, responses=SHORT)
    assert sum(row["reward"] for row in rows[-3:]) > 1.3 * sum(row["reward"] for row in rows[:3])
    unit = "tokens" if loss_type == "dapo" else "answers"
    assert all(row[f"{unit}_per_second"] > 0 and row["clip_ratio"] == 0 for row in rows)


def test_a_stop_changes_no_weight_and_several_updates_are_clipped(frames, tmp_path):
    settings = grpo_phase(epochs=2, num_updates=2, learning_rate=5e-3)
    options = {"responses": SHORT, "checkpoint_minutes": 0}
    examples = grpo_examples(context(tmp_path))
    whole, rows = train(frames, tmp_path / "whole", settings, examples, **options)
    with pytest.raises(Stopped):
        train(frames, tmp_path / "stopped", settings, examples, progress=stop_after(3), **options)
    again, resumed = train(frames, tmp_path / "stopped", settings, examples, **options)
    assert timeless(resumed) == timeless(rows)
    weights = again.lm.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.lm.model.state_dict().items())
    assert max(row["clip_ratio"] for row in rows) > 0


def test_equal_rewards_give_no_gradient(frames, tmp_path):
    settings = grpo_phase(recall_weight=0.0, order_weight=0.0)
    _, rows = train(frames, tmp_path, settings, grpo_examples(context(tmp_path)), responses=SHORT)
    assert {(row["loss"], row["grad_norm"], row["reward_std"]) for row in rows} == {(0, 0, 0)}


def test_dropout_and_checkpointing_do_not_affect_sampling(frames, tmp_path):
    settings = grpo_phase(lora_dropout=0.5, gradient_checkpointing=True, epochs=2)
    _, rows = train(frames, tmp_path, settings, grpo_examples(context(tmp_path)), responses=SHORT)
    assert all(math.isfinite(row["grad_norm"]) for row in rows)


def test_held_out_videos_are_not_trained_on(frames, tmp_path):
    RunStore(tmp_path).append("held_out_pairs", [pair_of("v1")])
    assert [example.video_id for example in grpo_examples(context(tmp_path))] == ["v0", "v2"]


def test_impossible_settings_are_errors(tmp_path):
    settings = grpo_phase()
    with pytest.raises(ValueError, match=r"'p': objective 'grpo' .* need responses\.input_form = 'captions'"):
        context(tmp_path, settings, responses={"input_form": "video"})
    with pytest.raises(ValueError, match="there are no captions"):
        grpo_examples(context(tmp_path))
    with pytest.raises(ValueError, match="num_answers"):
        SftPhase(name="p", objective="sft", learning_rate=1.0, num_answers=2)
