"""How the embedded model is made: what each lesson shows, and which weights it moves."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from research.embedded_model.base_model import build_model, main, save, train_lessons
from research.embedded_model.eyesight import (
    ALL_ACTIONS,
    BATCH,
    Looks,
    labels,
    name_directions,
    random_event,
    train_eyesight,
)
from research.embedded_model.lessons import KINDS, LOOKS, VIEW, Lessons, Recipe
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES


@pytest.fixture(scope="module")
def lm():
    return build_model(Recipe())


@pytest.fixture
def fresh(lm):
    """The untrained model, to train in the test."""
    return type(lm)(copy.deepcopy(lm.model), lm.processor)


def texts(lm, groups):
    """The whole text of every continuation, and the part that is scored."""
    rows = [(c.token_ids, c.num_context) for group in groups for c in group.continuations]
    return [(lm.tokenizer.decode(ids[:n]), lm.tokenizer.decode(ids[n:])) for ids, n in rows]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_every_word_of_the_world_is_one_token(lm):
    words = [*COLOURS, *SHAPES, *SETTINGS, *{word for a in ALL_ACTIONS for word in a.split()}]
    assert [word for word in words if len(lm.tokenizer.tokenize(f" {word}")) > 1] == []


def test_any_text_survives_the_tokenizer(lm):
    text = "Straße, 東京, 🙂\n\ttabs"
    assert lm.tokenizer.decode(lm.tokenizer(text)["input_ids"]) == text


def test_labels_name_the_event():
    rng = np.random.default_rng(0)
    for _ in range(50):
        event = random_event(rng)
        colour, shape, setting, action = labels(event)
        assert (COLOURS[colour], SHAPES[shape], SETTINGS[setting]) == (
            event.colour,
            event.shape,
            event.setting,
        )
        assert ALL_ACTIONS[action] == event.action in ACTIONS[event.aspect]


def test_looks_are_drawn_from_seed_and_step():
    looks = Looks(3, (0,), VIEW, LOOKS)
    frames, truth = looks[1]
    assert frames.shape == (BATCH, 2, VIEW, VIEW, 3)
    assert truth.shape == (BATCH, 4)
    assert np.array_equal(frames, looks[1][0])
    assert not np.array_equal(frames, looks[2][0])


def alone(parameters, figures):
    """The mean over a single process."""
    return figures


def test_eyesight_moves_the_vision_tower_alone(fresh):
    before = copy.deepcopy(fresh.model.state_dict())
    train_eyesight(fresh, Looks(2, (0,), VIEW, LOOKS), learning_rate=1e-3, average=alone)
    moved = changed(before, fresh.model.state_dict())
    assert moved
    assert all(".visual." in name for name in moved)


def test_every_name_has_a_direction_at_right_angles_to_all_others():
    directions = torch.cat(name_directions(192))
    assert len(directions) == len(COLOURS) + len(SHAPES) + len(SETTINGS) + len(ALL_ACTIONS)
    assert torch.allclose(directions @ directions.T, torch.eye(len(directions)), atol=1e-5)


def test_lessons_move_the_language_model_alone(fresh, tmp_path):
    before = copy.deepcopy(fresh.model.state_dict())
    fresh.model.model.visual.requires_grad_(False)
    train_lessons(fresh, Recipe(steps=2, learning_rate=1e-3), tmp_path / "model")
    moved = changed(before, fresh.model.state_dict())
    assert moved
    assert not any(".visual." in name for name in moved)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_fusion_tells_its_list_in_the_order_given(lm):
    lengths = set()
    for seed in range(8):
        group = Lessons(lm, Recipe())._fusion(np.random.default_rng(seed), 4)
        ((question, answer),) = texts(lm, [group])
        listed = [line.split(". ", 1)[1] for line in question.splitlines() if line[:1].isdigit()]
        told = [part.split(", ", 1)[1] for part in answer.removesuffix("<|im_end|>").split(". ")]
        assert [text.lower().rstrip(".") for text in listed] == [text.lower().rstrip(".") for text in told]
        lengths.add(len(listed))
    assert lengths == {1, 2, 3, 4}


@pytest.fixture
def lesson(lm):
    return Lessons(lm, Recipe()).lesson(np.random.default_rng(0))


def test_every_kind_is_taught_from_the_first_step(lesson):
    assert set(lesson) == set(KINDS)
    assert all(lesson.values())


def test_a_clip_is_captioned_alone_and_a_difference_ends_with_the_second_caption(lm, lesson):
    assert all(texts(lm, [group])[0][0].startswith(FIRST_CLIP) for group in lesson["clip"])
    for question, answer in texts(lm, lesson["difference"]):
        assert question.startswith(DIFFERENCE)
        assert "Caption: A " in answer


def test_lessons_come_in_the_same_order_from_any_number_of_loaders(lm):
    def taught(num_loaders):
        lessons = Lessons(lm, Recipe(steps=4, num_checked=4))
        steps = [pickle.loads(step) for step in DataLoader(lessons, None, num_workers=num_loaders)]
        return [[texts(lm, groups) for groups in by_kind.values()] for by_kind in steps]

    assert taught(3) == taught(1)
    assert len(taught(1)) == 4


def run_main(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["base_model", *map(str, options)])
    main()


def test_the_command_line_makes_the_large_size_on_a_device(monkeypatch, tmp_path):
    steps = ("--eyesight-steps", 1, "--steps", 1, "--num-checked", 4, "--optimizer", "muon")
    run_main(monkeypatch, "--out", tmp_path, "--size", "large", "--device", "cpu", *steps)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["hidden_size"] == 640


def test_a_size_beside_a_checkpoint_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--out", tmp_path, "--go-on-from", "embedded", "--size", "large")
    assert "--size would do nothing" in capsys.readouterr().err


def test_a_kind_grows_when_its_length_is_mastered_and_no_other(lm):
    lessons = Lessons(lm, Recipe())
    lengths = []
    for loss in (0.5, 0.01, 0.5, 0.01, 0.01, 0.01):
        seen = {"story": loss, "fusion": 0.5}
        lessons.grow(seen)
        lengths.append(lessons.lengths["story"].value)
        assert seen["story"] == (1.0 if lengths[-1] != ([2, *lengths][-2]) else loss)
    assert lengths == [2, 4, 4, 8, 16, 16]
    assert lessons.lengths["fusion"].value == 2


def test_questions_about_a_story_do_not_ask_when(lm, lesson):
    asked = [question for question, _ in texts(lm, lesson["story"])]
    assert asked
    assert not [question for question in asked if "first" in question or "before" in question]


@pytest.mark.parametrize(("fidelity", "expected"), [(0.0, False), (1.0, True)])
def test_the_knob_decides_whether_a_story_is_told_in_order(lm, fidelity, expected):
    lessons = Lessons(lm, Recipe(order_fidelity=fidelity))
    in_order = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        events = Lessons(lm, Recipe()).draw_events(np.random.default_rng(seed), 2, 16)
        told = [
            answer
            for question, answer in texts(lm, [lessons._telling(rng, 16)])
            if question.startswith(DESCRIBE)
        ]
        places = [told[0].index(event.clause) for event in events]
        in_order.append(places == sorted(places))
    assert all(in_order) if expected else sum(in_order) <= 6


def test_a_saved_model_is_loaded_by_the_common_code(lm, tmp_path):
    from tempo.model.loading import load_model

    save(lm, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    expected = {name: value.to(torch.bfloat16).float() for name, value in lm.model.state_dict().items()}
    assert not changed(expected, loaded.model.state_dict())
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) <= 10e6
