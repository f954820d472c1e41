"""Sizes are what they say; the second architecture is built, taught to see frame by frame, and saved."""

import copy

import numpy as np
import pytest
import torch

from research.embedded_model.architectures import ARCHITECTURES, build_model, sight_parameters
from research.embedded_model.base_model import _optimizers, save, train_lessons
from research.embedded_model.eyesight import ALL_ACTIONS, BATCH
from research.embedded_model.frame_eyesight import (
    EVENT_NAMES,
    FRAME_NAMES,
    IGNORED,
    NUM_LAYERS,
    FrameLooks,
    frame_labels,
    right_angles,
    train_frame_eyesight,
)
from research.embedded_model.lessons import LOOKS, VIEW, Recipe
from tempo.model.chat import Continuation, Prefix
from tempo.model.loading import load_model
from tempo.model.prefix import language_model
from tempo.model.support import self_check
from tempo.synthetic.world import COLOURS, SHAPES, Event

RECIPE = Recipe(architecture="llava_onevision")


@pytest.fixture(scope="module")
def lm():
    return build_model(RECIPE)


@pytest.fixture
def fresh(lm):
    """The untrained model, to train in the test."""
    return type(lm)(copy.deepcopy(lm.model), lm.processor)


def shown(aspect, action, time, *, colour="red"):
    """What a frame of an event shows, by name."""
    event = Event(setting="sea", colour=colour, shape="ring", aspect=aspect, action=action, drift=0.0)
    return dict(zip(FRAME_NAMES, frame_labels(event, time), strict=True))


def shapes(lm):
    """The shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in lm.model.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"'gpt'.*llava_onevision"):
        build_model(Recipe(architecture="gpt"))


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match=r"'huge'.*small, large"):
        build_model(Recipe(size="huge"))
    with pytest.raises(ValueError, match=r"'large': llava_onevision has one size"):
        build_model(Recipe(architecture="llava_onevision", size="large"))


@pytest.mark.parametrize(("size", "least", "most"), [("small", 3.5e6, 3.7e6), ("large", 30e6, 60e6)])
def test_a_size_has_its_number_of_parameters(size, least, most):
    lm = build_model(Recipe(size=size, device="cpu"))
    assert least < sum(parameter.numel() for parameter in lm.model.parameters()) < most


def test_the_small_size_is_that_of_the_committed_model():
    committed = load_model("embedded", device="cpu")
    assert shapes(build_model(Recipe(size="small", device="cpu"))) == shapes(committed)


def test_both_architectures_speak_through_one_tokenizer():
    tokenizers = [build_model(Recipe(architecture=name)).tokenizer for name in ARCHITECTURES]
    first, second = (tokenizer.get_vocab() for tokenizer in tokenizers)
    assert first == second


@pytest.mark.parametrize(("architecture", "expected"), [("qwen2_5_vl", 4), ("llava_onevision", 8)])
def test_an_event_costs_few_visual_tokens(architecture, expected):
    lm = build_model(Recipe(architecture=architecture))
    frames = [np.zeros((n, VIEW, VIEW, 3), np.uint8) for n in (2, 4)]
    short, long = (lm.group(Prefix(f, "?"), []).inputs for f in frames)
    assert long["input_ids"].shape[1] - short["input_ids"].shape[1] == expected


def test_the_shared_prefix_serves_it(lm):
    frames = np.random.default_rng(0).integers(0, 256, (6, VIEW, VIEW, 3), dtype=np.uint8)
    rows = [Continuation("In the sea.", "Where is the ring?"), Continuation("It grows.", "What does it do?")]
    assert self_check(lm.model, lm.group(Prefix(frames, ""), rows)) < 1e-5


def test_a_frame_shows_what_is_there_now():
    assert shown("attribute_change", "turns blue", 0.25)["colour"] == COLOURS.index("red")
    assert shown("attribute_change", "turns blue", 0.75)["colour"] == COLOURS.index("blue")
    early, late = (shown("direction", "moves right", time) for time in LOOKS)
    assert early["x"] < late["x"]
    assert early["y"] == late["y"]
    assert shown("action", "grows", 0.25)["size"] < shown("action", "grows", 0.75)["size"]


def test_a_thing_that_is_not_there_has_no_place():
    absent = shown("action", "appears", 0.25)
    assert (absent["colour"], absent["shape"]) == (len(COLOURS), len(SHAPES))
    assert {absent[name] for name in ("x", "y", "size")} == {IGNORED}
    assert shown("action", "appears", 0.75)["colour"] == COLOURS.index("red")


def test_only_second_looks_name_events():
    looks = FrameLooks(8, (0,), VIEW, LOOKS)
    for step in range(8):
        frames, frame_truth, truth = looks[step]
        assert frames.shape[0] * frames.shape[1] == 2 * BATCH
        assert (frame_truth.shape, truth.shape) == ((*frames.shape[:2], 6), (*frames.shape[:2], 4))
        assert (truth[:, ::2, 3] == len(ALL_ACTIONS)).all()
        assert (truth[:, ::2, :3] == IGNORED).all()
        assert (truth[:, 1::2] >= 0).all()
        assert (truth[:, 1::2, 3] < len(ALL_ACTIONS)).all()
    assert all(np.array_equal(a, b) for a, b in zip(looks[1], looks[1], strict=True))
    assert not np.array_equal(looks[1][2], looks[2][2])


def test_all_names_are_at_right_angles():
    directions = torch.cat(right_angles([*FRAME_NAMES.values(), *EVENT_NAMES.values()], 192))
    assert torch.allclose(directions @ directions.T, torch.eye(len(directions)), atol=1e-5)


def test_eyesight_moves_the_sight_and_the_first_layers(fresh):
    before = copy.deepcopy(fresh.model.state_dict())
    looks = FrameLooks(2, (0,), VIEW, LOOKS)
    train_frame_eyesight(fresh, looks, learning_rate=1e-3, average=lambda parameters, figures: figures)
    moved = changed(before, fresh.model.state_dict())
    assert any("vision_tower" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    layers = {int(n.split(".layers.")[1].split(".")[0]) for n in moved if "language_model.layers" in n}
    assert layers == set(range(NUM_LAYERS))
    assert not any("embed_tokens" in name for name in moved)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_weight_that_learns_has_one_optimizer(lm, optimizer):
    chosen = _optimizers(lm.model, Recipe(optimizer=optimizer))
    held = [id(p) for one in chosen for group in one.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in lm.model.parameters() if p.requires_grad)
    assert len(chosen) == (2 if optimizer == "muon" else 1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_lessons_move_the_language_model_alone(fresh, tmp_path, optimizer):
    sight = sight_parameters(fresh.model)
    for parameter in sight:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in sight]
    spoken = copy.deepcopy(language_model(fresh.model).state_dict())
    train_lessons(fresh, Recipe(steps=2, optimizer=optimizer, num_checked=4), tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(before, sight, strict=True))
    assert changed(spoken, language_model(fresh.model).state_dict())


def test_a_saved_model_is_loaded_by_the_common_code(lm, tmp_path):
    save(lm, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    expected = {name: value.to(torch.bfloat16).float() for name, value in lm.model.state_dict().items()}
    assert not changed(expected, loaded.model.state_dict())
    frames = np.zeros((4, VIEW, VIEW, 3), np.uint8)
    ours, theirs = (one.group(Prefix(frames, "?"), []).inputs for one in (lm, loaded))
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["pixel_values_videos"], theirs["pixel_values_videos"])
