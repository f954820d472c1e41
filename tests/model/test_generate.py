"""Sampling answers: each depends on its own request and seed, not on its batch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES, make_frames, make_lm

from tempo import load_model
from tempo.config import SamplingConfig
from tempo.model.answers import Answer, Request
from tempo.model.generate import generate
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import make_story


@pytest.fixture(scope="module")
def lm():
    return load_model("embedded")


def make_requests(count, *, seed=0):
    """Requests of three kinds: text only, two frames, four frames."""
    made = []
    for index in range(count):
        events = make_story(31, index, num_shots=(4, 4)).events
        frames = [event_frames(event, (0.25, 0.75), size=64) for event in events]
        shown = (None, frames[0], np.concatenate(frames[:2]))[index % 3]
        made.append(Request("Describe the clip." + " Please." * index, seed + index, shown))
    return made


def sample(lm, requests, *, batch_size=4, temperature=0.7, max_new_tokens=20, penalty=1.05):
    sampling = SamplingConfig(batch_size=batch_size, temperature=temperature, repetition_penalty=penalty)
    return generate(lm, requests, sampling=sampling, max_new_tokens=max_new_tokens)


def test_an_answer_does_not_depend_on_its_batch(lm):
    requests = make_requests(9)
    together = sample(lm, requests, batch_size=9)
    assert sample(lm, requests, batch_size=1) == together
    assert sample(lm, requests[::-1], batch_size=4) == together[::-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_every_family_do_not_depend_on_their_batch(family):
    lm = make_lm(family)
    generator = np.random.default_rng(0)
    videos = [make_frames(family, count, generator) for count in (3, 3, 4)]
    requests = [Request("3 4 5", index, frames) for index, frames in enumerate(videos)]
    requests.append(Request("6 7", seed=9))
    alone, together = (sample(lm, requests, batch_size=size, max_new_tokens=4) for size in (1, 4))
    assert alone == together
    assert len({answer.text for answer in alone}) == len(requests)


def test_another_seed_gives_another_answer_except_at_temperature_zero(lm):
    one, other = make_requests(6), make_requests(6, seed=100)
    assert sample(lm, one, temperature=3.0) != sample(lm, other, temperature=3.0)
    assert sample(lm, one, temperature=0.0) == sample(lm, other, temperature=0.0)


def test_an_answer_that_the_limit_cut_is_not_whole(lm):
    (answer,) = sample(lm, make_requests(1), max_new_tokens=2)
    assert answer == Answer(answer.text, False)
    (answer,) = sample(lm, make_requests(1), max_new_tokens=100)
    assert answer.is_whole


def test_the_reasoning_is_left_out(lm, monkeypatch):
    texts = ["<think>Is it a ring?</think> A ring.", "<think>Is"]
    monkeypatch.setattr(
        type(lm.tokenizer),
        "decode",
        lambda _, row, **__: texts.pop(0),
    )
    answers = sample(lm, [Request("Describe it.", seed) for seed in range(2)])
    assert [answer.text for answer in answers] == ["A ring.", ""]
    assert not answers[1].is_whole


def test_generation_settings_of_a_checkpoint_are_honoured_or_refused_by_name():
    lm = load_model("embedded")
    settings, (plain,) = lm.model.generation_config, sample(lm, make_requests(1), temperature=0.0)
    settings.return_dict_in_generate = True
    assert sample(lm, make_requests(1), temperature=0.0) == [plain]
    first, second = plain.text.split()[:2]
    settings.stop_strings = [f" {second}", "never"]
    assert sample(lm, make_requests(2), temperature=0.0)[0] == Answer(first, True)
    settings.stop_strings = None
    settings.suppress_tokens = [lm.tokenizer(first)["input_ids"][0]]
    assert not sample(lm, make_requests(1), temperature=0.0)[0].text.startswith(first)
    settings.num_beams = 4
    with pytest.raises(ValueError, match=r"num_beams is 4 .*generation_config\.json.*Set it to 1"):
        sample(lm, make_requests(1))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_tokens_have_the_models_probabilities(temperature):
    lm = make_lm("qwen2_5_vl")
    request, count = Request("3 4 5", 0), 3000
    inputs = lm.inputs([lm.render(request.prompt, with_video=False)])
    with torch.no_grad():
        shares = (lm.model(**inputs).logits[0, -1] / temperature).softmax(dim=-1)
    answers = sample(
        lm,
        [replace(request, seed=seed) for seed in range(count)],
        batch_size=1000,
        temperature=temperature,
        max_new_tokens=1,
        penalty=1.0,
    )
    seen = Counter(answer.text for answer in answers)
    likeliest = [int(token) for token in shares.argsort(descending=True) if 3 <= token < 80][:3]
    for token in likeliest:
        expected = float(shares[token])
        spread = (expected * (1 - expected) / count) ** 0.5
        assert seen[str(token)] / count == pytest.approx(expected, abs=4 * spread)
