"""The second embedded model knows the same world by another architecture, with weights of its own."""

import json
from pathlib import Path

import pytest
import torch

from research.embedded_model import card
from tempo.config import SamplingConfig, parse_config
from tempo.model.answers import Request
from tempo.model.chat import Prefix
from tempo.model.generate import generate
from tempo.model.loading import check_model_path, load_model, resolve_model_path
from tempo.model.support import self_check
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP
from tempo.synthetic import language
from tempo.synthetic.world import make_story

NAME = "research/embedded_model/llava"


@pytest.fixture(scope="module")
def lm():
    return load_model(NAME)


@pytest.fixture(scope="module")
def recorded():
    return json.loads((Path(NAME) / "scores.json").read_text())


def test_a_configuration_may_name_it():
    assert parse_config({"synthetic": {}, "model": {"path": NAME}}).model.path == NAME
    assert check_model_path(NAME) is None
    assert resolve_model_path(NAME) == str(Path(NAME))


def test_the_names_stand_for_two_architectures():
    kinds = [
        json.loads((Path(n) / "config.json").read_text())["model_type"]
        for n in ("src/tempo/synthetic/model", NAME)
    ]
    assert kinds == ["qwen2_5_vl", "llava_onevision"]


def test_it_is_an_ordinary_directory_of_safetensors():
    names = {file.name for file in Path(NAME).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "scores.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert sum(file.stat().st_size for file in Path(NAME).iterdir()) <= 10e6


def test_its_card_tells_its_family_and_size(lm):
    count = sum(parameter.numel() for parameter in lm.model.parameters())
    text = (Path(NAME) / "README.md").read_text()
    assert f"A LLaVA-OneVision of {count / 1e6:.1f} M parameters" in text


def test_its_weights_are_its_own(lm):
    first = load_model("embedded").model.get_input_embeddings().weight
    second = lm.model.get_input_embeddings().weight
    assert first.shape == second.shape
    assert float(torch.nn.functional.cosine_similarity(first, second).detach().abs().mean()) < 0.3


def test_it_captions_clips_and_what_comes_after_them(lm):
    stories = [make_story(card.CARD_SEED + 3, index, num_shots=(4, 8)) for index in range(8)]
    views = [card.story_view(story) for story in stories]
    asked = [Request(FIRST_CLIP, seed=i, frames=view[:2]) for i, view in enumerate(views)]
    asked += [Request(DIFFERENCE, seed=i, frames=view[:4]) for i, view in enumerate(views)]
    told = [answer.text for answer in generate(lm, asked, sampling=SamplingConfig(), max_new_tokens=64)]
    truth = [language.caption(story.events[0]) for story in stories]
    truth += [language.difference(*story.events[:2]) for story in stories]
    assert sum(a == b for a, b in zip(told[:8], truth[:8], strict=True)) >= 7, told
    assert sum(a == b for a, b in zip(told[8:], truth[8:], strict=True)) >= 6, told


def test_the_shared_prefix_serves_it(lm):
    story = make_story(card.CARD_SEED + 3, 9, num_shots=(4, 8))
    captions = [language.caption(event) for event in story.events]
    answers = [language.fuse(captions), language.fuse(captions[::-1])]
    assert (
        self_check(lm.model, lm.group(Prefix(card.story_view(story), "Describe the video."), answers)) < 1e-5
    )


def test_it_has_what_the_pairs_of_a_run_need(recorded):
    assert recorded["first_captions"] >= 0.95
    assert recorded["differential_captions"] >= 0.9
    assert recorded["fused_clauses"] >= 0.9


@pytest.mark.parametrize("aspect", ["event_order", "conflicting"])
def test_it_does_not_know_the_order(recorded, aspect):
    assert recorded["by_aspect"][aspect]["accuracy"] <= 0.6
