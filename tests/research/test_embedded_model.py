"""How the embedded models are made: examples, which weights move, and what the committed ones know."""

import copy
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from research.embedded_model import card, vision
from research.embedded_model.__main__ import main
from research.embedded_model.examples import KINDS, LanguageExamples, Recipe, draw_events
from research.embedded_model.models import ARCHITECTURES, FRAME_SIZE, build_model, vision_parameters
from research.embedded_model.training import average, make_optimizers, train_language
from research.embedded_model.vision import VisionExamples, pretrain_vision
from tempo.evaluation.evaluate import ask
from tempo.model.chat import Continuation, Prefix
from tempo.model.loading import embedded_path, load_model
from tempo.model.support import self_check
from tempo.preference.prompts import DESCRIBE
from tempo.synthetic import benchmark
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES, Event, make_story

COMMITTED = {
    "qwen2_5_vl": embedded_path(),
    "llava_onevision": Path(__file__).parents[2] / "research" / "embedded_model" / "llava",
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def lm(architecture):
    return build_model(architecture, device="cpu")


@pytest.fixture(scope="module")
def committed(architecture):
    return load_model(COMMITTED[architecture], device="cpu")


@pytest.fixture(scope="module")
def scores(architecture):
    return json.loads((COMMITTED[architecture] / "scores.json").read_text())


@pytest.fixture
def fresh(lm):
    """The untrained model, for a test that trains it."""
    return type(lm)(copy.deepcopy(lm.model), lm.processor)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def texts(lm, groups):
    """Prompt and answer of every question."""
    rows = [(c.token_ids, c.num_context) for group in groups for c in group.continuations]
    return [(lm.tokenizer.decode(ids[:n]), lm.tokenizer.decode(ids[n:])) for ids, n in rows]


# The untrained models


def test_every_word_of_the_world_is_one_token_and_any_text_survives(lm):
    words = [
        *COLOURS,
        *SHAPES,
        *SETTINGS,
        *{word for action in vision.ALL_ACTIONS for word in action.split()},
    ]
    assert [word for word in words if len(lm.tokenizer.tokenize(f" {word}")) > 1] == []
    text = "Straße, 東京, 🙂\n\ttabs"
    assert lm.tokenizer.decode(lm.tokenizer(text)["input_ids"]) == text


def test_a_new_model_has_the_shapes_of_the_committed_one_and_the_shared_prefix_is_exact(lm, committed):
    shapes = [{n: tuple(w.shape) for n, w in model.model.state_dict().items()} for model in (lm, committed)]
    assert shapes[0] == shapes[1]
    frames = np.random.default_rng(0).integers(0, 256, (6, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    rows = [Continuation("In the sea.", "Where is the ring?"), Continuation("It grows.", "What does it do?")]
    assert self_check(lm.model, lm.group(Prefix(frames, ""), rows)) < 1e-5


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("gpt", "small", "'gpt'; use one of qwen2_5_vl, llava_onevision"),
        ("qwen2_5_vl", "huge", "'huge': use one of small, large"),
        ("llava_onevision", "large", "small with others"),
    ],
)
def test_an_unknown_architecture_or_size_is_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, size=size)


# Vision pretraining


def test_vision_examples_follow_from_seed_and_step_and_only_second_frames_name_actions(architecture):
    by_frame = architecture == "llava_onevision"
    examples = VisionExamples(4, (0,), by_frame=by_frame)
    frames, *labels = examples[1]
    assert frames.shape[0] * frames.shape[1] == 2 * vision.BATCH_SIZE
    assert all(np.array_equal(a, b) for a, b in zip(examples[1], (frames, *labels), strict=True))
    assert not np.array_equal(examples[2][-1], labels[-1])
    if by_frame:
        truth = labels[1]
        assert (truth[:, ::2, 3] == len(vision.ALL_ACTIONS)).all()
        assert (truth[:, ::2, :3] == vision.IGNORED).all()
        assert (truth[:, 1::2, 3] < len(vision.ALL_ACTIONS)).all()


def test_labels_name_what_is_there_now():
    def shown(aspect, action, time):
        event = Event(setting="sea", colour="red", shape="ring", aspect=aspect, action=action, drift=0.0)
        assert vision.ALL_ACTIONS[vision.event_labels(event)[3]] == action in ACTIONS[aspect]
        return dict(zip(vision.FRAME_NAMES, vision.frame_labels(event, time), strict=True))

    assert shown("attribute_change", "turns blue", 0.25)["color"] == COLOURS.index("red")
    assert shown("attribute_change", "turns blue", 0.75)["color"] == COLOURS.index("blue")
    early, late = (shown("direction", "moves right", time) for time in vision.FRAME_TIMES)
    assert early["x"] < late["x"]
    absent = shown("action", "appears", 0.25)
    assert (absent["color"], absent["shape"], absent["x"]) == (len(COLOURS), len(SHAPES), vision.IGNORED)


def test_vision_pretraining_moves_what_sees(architecture, fresh):
    before = copy.deepcopy(fresh.model.state_dict())
    examples = VisionExamples(2, (0,), by_frame=architecture == "llava_onevision")
    pretrain_vision(fresh, examples, learning_rate=1e-3, average=average)
    moved = changed(before, fresh.model.state_dict())
    assert any("visual" in name or "vision_tower" in name for name in moved)
    layers = {int(n.split(".layers.")[1].split(".")[0]) for n in moved if "language_model.layers" in n}
    assert layers == (set(range(vision.NUM_LAYERS)) if examples.by_frame else set())
    assert not any("embed_tokens" in name for name in moved)


# The language model


def test_a_few_steps_lower_the_loss_and_leave_vision_as_it_is(fresh, tmp_path):
    seen = vision_parameters(fresh.model)
    for parameter in seen:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in seen]
    losses = train_language(fresh, Recipe(steps=25, num_checked=4, learning_rate=3e-3), tmp_path / "model")
    # 640 tokens to choose from: ln 640 is 6.5.
    assert list(losses) == list(KINDS)
    assert losses["description"] < 6.0
    assert all(torch.equal(a, b) for a, b in zip(before, seen, strict=True))
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(("name", "count"), [("adamw", 1), ("muon", 2)])
def test_every_trainable_weight_has_one_optimizer(lm, name, count):
    made = make_optimizers(lm.model, name)
    held = [id(p) for optimizer in made for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in lm.model.parameters() if p.requires_grad)
    assert len(made) == count


def test_examples_do_not_depend_on_the_number_of_loaders(lm):
    def drawn(num_loaders):
        examples = LanguageExamples(lm, Recipe(steps=3, num_checked=4))
        steps = [pickle.loads(step) for step in DataLoader(examples, None, num_workers=num_loaders)]
        return [[texts(lm, groups) for groups in by_kind.values()] for by_kind in steps]

    assert drawn(2) == drawn(1)


def test_a_kind_grows_when_its_length_is_mastered_and_no_other(lm):
    examples, lengths = LanguageExamples(lm, Recipe()), []
    for loss in (0.5, 0.01, 0.5, 0.01, 0.01, 0.01):
        examples.grow({"story": loss, "fusion": 0.5})
        lengths.append(examples.lengths["story"].value)
    assert lengths == [2, 4, 4, 8, 16, 16]
    assert examples.lengths["fusion"].value == 2


def test_a_fusion_keeps_the_order_of_its_list(lm):
    for seed in range(4):
        group = LanguageExamples(lm, Recipe()).fusion(np.random.default_rng(seed), 4)
        ((question, answer),) = texts(lm, [group])
        listed = [line.split(". ", 1)[1] for line in question.splitlines() if line[:1].isdigit()]
        told = [part.split(", ", 1)[1] for part in answer.removesuffix("<|im_end|>").split(". ")]
        assert [text.lower().rstrip(".") for text in listed] == [text.lower().rstrip(".") for text in told]


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_order_fidelity_decides_whether_a_story_is_told_in_order(lm, fidelity):
    in_order = []
    for seed in range(12):
        group = LanguageExamples(lm, Recipe(order_fidelity=fidelity)).description(
            np.random.default_rng(seed), 16
        )
        told = next(answer for question, answer in texts(lm, [group]) if question.startswith(DESCRIBE))
        places = [told.index(event.clause) for event in draw_events(np.random.default_rng(seed), 2, 16)]
        in_order.append(places == sorted(places))
    assert all(in_order) if fidelity else sum(in_order) <= 6


def test_the_command_makes_and_measures_a_model(monkeypatch, tmp_path, capsys):
    options = ["--vision-steps", "1", "--steps", "1", "--num-checked", "4", "--num-stories", "2"]
    options += ["--size", "large", "--optimizer", "muon", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["x", "--out", str(tmp_path), *options])
    main()
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["hidden_size"] == 640
    assert "A Qwen2.5-VL of 37" in capsys.readouterr().out
    assert set(card.TEXTS) < json.loads((tmp_path / "scores.json").read_text()).keys()


# The committed models


def test_a_committed_model_is_a_small_directory_of_safetensors(architecture):
    files = list(COMMITTED[architecture].iterdir())
    names = {file.name for file in files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "scores.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert sum(file.stat().st_size for file in files) <= 10e6


def test_the_card_shows_the_size_and_the_recorded_scores(architecture, committed, scores):
    text = (COMMITTED[architecture] / "README.md").read_text()
    count = sum(parameter.numel() for parameter in committed.model.parameters())
    assert f"A {card.FAMILIES[architecture]} of {count / 1e6:.1f} M parameters" in text
    assert all(f"{100 * score['accuracy']:.1f}" in text for score in scores["by_aspect"].values())


def test_a_committed_model_captions_and_fuses_but_does_not_know_the_order(architecture, scores):
    assert min(scores[name] for name in ("first_captions", "differential_captions", "fused_clauses")) >= 0.9
    assert all(scores["by_aspect"][name]["accuracy"] <= 0.6 for name in ("event_order", "conflicting"))
    others = ("action", "direction", "speed", "attribute_change", "static")
    least = 0.9 if architecture == "qwen2_5_vl" else 0.7
    assert min(scores["by_aspect"][name]["accuracy"] for name in others) >= least


def test_the_recorded_scores_can_be_measured_again(committed, scores):
    found = card.measure(committed, num_stories=12, seed=card.CARD_SEED + 1)
    assert found["first_captions"] == pytest.approx(scores["first_captions"], abs=0.25)
    for aspect in ("action", "direction", "event_order"):
        accuracies = [table["by_aspect"][aspect]["accuracy"] for table in (found, scores)]
        assert accuracies[0] == pytest.approx(accuracies[1], abs=0.25), aspect


def test_without_the_video_the_benchmark_is_a_guess():
    lm, right, chances = load_model("embedded", device="cpu"), [], []
    for number in range(40):
        story = make_story(card.CARD_SEED + 2, number, num_shots=(4, 9))
        samples = benchmark.story_samples(story, seed=3, number=number)
        samples += benchmark.conflicting_samples(story)
        gray = np.full_like(card.story_frames(story), 127)
        right += [outcome.is_right for outcome in ask(lm, samples, gray, fps=1.0)]
        chances += [1 / len(sample.options) for sample in samples]
    assert np.mean(right) == pytest.approx(np.mean(chances), abs=0.07)
