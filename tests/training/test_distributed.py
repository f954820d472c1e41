"""The state of a stopped phase restores weights, optimizer and schedule exactly."""

import json

import pytest
import torch
from training_material import phase

from tempo.model.loading import repair_torchvision
from tempo.training.distributed import DistributedOptimizer, remove_state


def make(seed=0):
    repair_torchvision()
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    return model, DistributedOptimizer(model, model, phase=phase(learning_rate=0.1), num_steps=6)


def train(optimizer, num_steps):
    for step in range(num_steps):
        x = torch.full((2, 3), float(step + 1))
        with optimizer.accumulate(is_last=True):
            optimizer.backward(optimizer.module(x).square().mean())
        optimizer.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("before", [0, 3])
def test_weights_optimizer_and_schedule_are_restored_to_the_bit(tmp_path, before):
    model, optimizer = make()
    train(optimizer, before)
    optimizer.save(tmp_path / "state", before)
    other, fresh = make(seed=1)
    assert fresh.restore(tmp_path / "state") == before
    for one in (optimizer, fresh):
        train(one, 2)
    assert torch.equal(weights(model), weights(other))
    assert optimizer.learning_rate == fresh.learning_rate


def test_without_a_state_nothing_is_restored(tmp_path):
    model, optimizer = make()
    before = weights(model)
    assert optimizer.restore(tmp_path / "state") == 0
    assert torch.equal(weights(model), before)


def test_a_kill_between_the_renames_leaves_the_state_before(tmp_path):
    _, optimizer = make()
    optimizer.save(tmp_path / "state", 1)
    (tmp_path / "state").rename(tmp_path / "state.old")
    (tmp_path / "state.tmp").mkdir()
    assert optimizer.restore(tmp_path / "state") == 1
    optimizer.save(tmp_path / "state", 2)
    assert optimizer.restore(tmp_path / "state") == 2
    remove_state(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_not_finite_changes_no_weight():
    model, optimizer = make()
    train(optimizer, 1)
    before = weights(model)
    optimizer.backward(optimizer.module(torch.full((2, 3), float("inf"))).square().mean())
    assert not torch.isfinite(torch.tensor(optimizer.step()))
    assert torch.equal(weights(model), before)


def test_nothing_is_pickled(tmp_path):
    _, optimizer = make()
    train(optimizer, 1)
    optimizer.save(tmp_path / "state", 1)
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["place.json", "state.safetensors"]
    assert json.loads((tmp_path / "state" / "place.json").read_text())["step"] == 1
