"""A phase stopped half-way goes on to the bit."""

import json

import pytest
import torch

from tempo.engine.ranks import make_accelerator
from tempo.training.checkpoints import forget_state, load_state, save_state, whole_directory
from tempo.training.updates import prepare


def make(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    adam = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, prepare(make_accelerator("cpu"), model, adam, max_grad_norm=1.0)


def learn(model, updates, steps):
    for step in range(steps):
        x = torch.full((2, 3), float(step + 1))
        with updates.row(is_last=True):
            updates.backward(model(x).square().mean())
        updates.update()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("before", [0, 3])
def test_weights_and_optimizer_come_back_to_the_bit(tmp_path, before):
    model, updates = make()
    learn(model, updates, before)
    save_state(tmp_path / "state", model.named_parameters(), updates, {"step": before})
    other, fresh = make(seed=1)
    assert load_state(tmp_path / "state", other.named_parameters(), fresh) == {"step": before}
    for one, its in ((model, updates), (other, fresh)):
        learn(one, its, 2)
    assert torch.equal(weights(model), weights(other))


def test_without_a_state_there_is_no_place(tmp_path):
    model, updates = make()
    before = weights(model)
    assert load_state(tmp_path / "state", model.named_parameters(), updates) is None
    assert torch.equal(weights(model), before)


def test_a_kill_between_the_renames_leaves_the_state_before(tmp_path):
    model, updates = make()
    save_state(tmp_path / "state", model.named_parameters(), updates, {"step": 1})
    (tmp_path / "state").rename(tmp_path / "state.old")
    (tmp_path / "state.tmp").mkdir()
    assert load_state(tmp_path / "state", model.named_parameters(), updates) == {"step": 1}
    save_state(tmp_path / "state", model.named_parameters(), updates, {"step": 2})
    assert load_state(tmp_path / "state", model.named_parameters(), updates) == {"step": 2}
    forget_state(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "model"
    for name in ("first", "second"):
        with whole_directory(path) as directory:
            (directory / name).touch()
    with pytest.raises(FileNotFoundError), whole_directory(path) as directory:
        (directory / "third").write_text((path / "absent").read_text())
    assert [file.name for file in path.iterdir()] == ["second"]
    with whole_directory(path) as directory:
        assert not list(directory.iterdir()), "of what was not finished nothing is left"
    assert [file.name for file in path.parent.iterdir()] == ["model"]


def test_nothing_is_pickled(tmp_path):
    model, updates = make()
    learn(model, updates, 1)
    save_state(tmp_path / "state", model.named_parameters(), updates, {"step": 1})
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["place.json", "state.safetensors"]
    assert json.loads((tmp_path / "state" / "place.json").read_text()) == {"step": 1}
