"""A phase stopped half-way goes on to the bit."""

import json

import pytest
import torch

from tempo.training.checkpoints import forget_state, load_state, save_state


def make(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def learn(model, optimizer, steps):
    for step in range(steps):
        x = torch.full((2, 3), float(step + 1))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("before", [0, 3])
def test_weights_and_optimizer_come_back_to_the_bit(tmp_path, before):
    model, optimizer = make()
    learn(model, optimizer, before)
    save_state(tmp_path / "state", model.named_parameters(), optimizer, {"step": before})
    other, fresh = make(seed=1)
    assert load_state(tmp_path / "state", other.named_parameters(), fresh) == {"step": before}
    for one, its in ((model, optimizer), (other, fresh)):
        learn(one, its, 2)
    assert torch.equal(weights(model), weights(other))


def test_without_a_state_there_is_no_place(tmp_path):
    model, optimizer = make()
    before = weights(model)
    assert load_state(tmp_path / "state", model.named_parameters(), optimizer) is None
    assert torch.equal(weights(model), before)


def test_a_kill_between_the_renames_leaves_the_state_before(tmp_path):
    model, optimizer = make()
    save_state(tmp_path / "state", model.named_parameters(), optimizer, {"step": 1})
    (tmp_path / "state").rename(tmp_path / "state.old")
    (tmp_path / "state.tmp").mkdir()
    assert load_state(tmp_path / "state", model.named_parameters(), optimizer) == {"step": 1}
    save_state(tmp_path / "state", model.named_parameters(), optimizer, {"step": 2})
    assert load_state(tmp_path / "state", model.named_parameters(), optimizer) == {"step": 2}
    forget_state(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_nothing_is_pickled(tmp_path):
    model, optimizer = make()
    learn(model, optimizer, 1)
    save_state(tmp_path / "state", model.named_parameters(), optimizer, {"step": 1})
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["place.json", "state.safetensors"]
    assert json.loads((tmp_path / "state" / "place.json").read_text()) == {"step": 1}
