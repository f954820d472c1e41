"""Drawing answers: each depends on its own request and seed, not on its batch."""

import numpy as np
import pytest
import torch

from tempo.config import ModelConfig, SamplingConfig
from tempo.model.generation import Answer, Request, _SeededSampling, generate
from tempo.model.loading import load_video_lm
from tempo.preference.prompts import FIRST_CLIP, fusion
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import make_story


@pytest.fixture(scope="module")
def lm():
    return load_video_lm(ModelConfig())


def requests(count, *, seed=0):
    """Requests of three kinds: words only, two frames, four frames."""
    made = []
    for index in range(count):
        events = make_story(31, index, num_shots=(4, 4)).events
        frames = [event_frames(event, (0.25, 0.75), size=64) for event in events]
        captions = [f"A {event.thing} {event.action}." for event in events]
        kinds = {
            0: (fusion(captions), None),
            1: (FIRST_CLIP, frames[0]),
            2: (FIRST_CLIP, np.concatenate(frames[:2])),
        }
        prompt, shown = kinds[index % 3]
        made.append(Request(prompt, seed=seed + index, frames=shown))
    return made


def draw(lm, made, *, batch_size=4, temperature=0.7, max_new_tokens=20):
    sampling = SamplingConfig(batch_size=batch_size, temperature=temperature)
    return generate(lm, made, sampling=sampling, max_new_tokens=max_new_tokens)


def test_an_answer_does_not_depend_on_its_batch(lm):
    made = requests(9)
    together = draw(lm, made, batch_size=9)
    assert draw(lm, made, batch_size=1) == together
    assert draw(lm, made[::-1], batch_size=4) == together[::-1]


def test_another_seed_gives_another_answer(lm):
    one = draw(lm, requests(6), temperature=3.0)
    other = draw(lm, requests(6, seed=100), temperature=3.0)
    assert [a.text for a in one] != [a.text for a in other]


def test_temperature_zero_ignores_the_seed(lm):
    assert draw(lm, requests(3), temperature=0.0) == draw(lm, requests(3, seed=100), temperature=0.0)


def test_an_answer_that_the_limit_cut_is_not_whole(lm):
    answers = draw(lm, requests(1), max_new_tokens=2)
    assert answers == [Answer(answers[0].text, False)]


def test_nothing_asked_nothing_drawn(lm):
    assert draw(lm, []) == []


def test_drawn_tokens_have_the_models_probabilities():
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).repeat(6000, 1)
    sampler = _SeededSampling([Request("", seed=i) for i in range(6000)], temperature=1.0)
    drawn = sampler(torch.empty(0), scores).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=3) / 6000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.025)


def test_temperature_sharpens_the_draw():
    scores = torch.log(torch.tensor([[0.6, 0.4]])).repeat(2000, 1)
    sampler = _SeededSampling([Request("", seed=i) for i in range(2000)], temperature=0.2)
    drawn = sampler(torch.empty(0), scores).argmax(dim=1)
    # 0.6 ** 5 against 0.4 ** 5
    assert float((drawn == 0).float().mean()) == pytest.approx(0.884, abs=0.03)


def test_an_impossible_token_is_never_drawn():
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(500, 1)
    sampler = _SeededSampling([Request("", seed=i) for i in range(500)], temperature=1.0)
    assert set(sampler(torch.empty(0), scores).argmax(dim=1).tolist()) == {1}
