"""Sampled answers: each depends on its own request and seed, not on its batch; reasoning is left out."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import PROCESSORS, make_frames, make_lm
from test_families import REJECTED, each_of

from tempo import load_model
from tempo.config import SamplingConfig
from tempo.model import sampling
from tempo.model.answers import Answer, Request, without_reasoning
from tempo.model.generate import generate
from tempo.preference.prompts import fusion
from tempo.synthetic.language import caption
from tempo.synthetic.world import make_story


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>A ring.\n\nIt turns.</think>\n\nA ring turns.", Answer("A ring turns.", True)),
        (" <think>\n\n</think>A ring turns.", Answer("A ring turns.", True)),
        # The chat template ends the prompt with "<think>".
        ("A ring, I see.\n</think>\nA ring turns.", Answer("A ring turns.", True)),
        ("<think>A ring.</think>", Answer("", True)),
        ("<think>A ring. Or is it", Answer("", False)),
        ("I think a ring turns.", Answer("I think a ring turns.", True)),
        ("A sign says <think> twice.", Answer("A sign says <think> twice.", True)),
    ],
)
def test_reasoning_is_not_part_of_an_answer(text, expected):
    assert without_reasoning(Answer(text, True)) == expected


def sample(lm, requests, *, batch_size=4, temperature=0.7, max_new_tokens=20, penalty=1.05):
    config = SamplingConfig(batch_size=batch_size, temperature=temperature, repetition_penalty=penalty)
    return generate(lm, requests, sampling=config, max_new_tokens=max_new_tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("family", each_of(PROCESSORS.keys() - REJECTED.keys()))
def test_an_answer_does_not_depend_on_its_batch(family, temperature):
    """Videos, text alone, prompts of various lengths, some with two answers; they end at different times."""
    lm = make_lm(family)
    lm.model.generation_config.eos_token_id = [*range(20, 32)]
    generator = np.random.default_rng(0)
    videos = [*(make_frames(family, count, generator) for count in (3, 3, 3, 3, 4)), *[None] * 5]
    requests = [Request("3 4" + " 5" * index, index, frames) for index, frames in enumerate(videos)]
    requests += [replace(request, seed=20 + request.seed) for request in requests[1:6]]
    options = {"temperature": temperature, "penalty": 1.3, "max_new_tokens": 70}
    alone = sample(lm, requests, batch_size=1, **options)
    assert sample(lm, requests, batch_size=20, **options) == alone
    assert sample(lm, requests[::-1], batch_size=3, **options) == alone[::-1]
    assert len({len(answer.text.split()) for answer in alone}) > 2


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("family", each_of(PROCESSORS.keys() - REJECTED.keys()))
def test_drafts_change_no_answer(family, temperature, monkeypatch):
    """Always three drafts, or none; right, wrong and partly right ones, with and without a video."""
    lm, answers = make_lm(family), {}
    lm.model.generation_config.eos_token_id = [*range(20, 26)]
    generator = np.random.default_rng(0)
    videos = [*(make_frames(family, 3, generator) for _ in range(3)), *[None] * 5]
    requests = [Request("3 4" + " 5" * index, index, frames) for index, frames in enumerate(videos)]
    requests += [replace(request, seed=20 + request.seed) for request in requests]
    for min_right in (0.0, 2.0):
        monkeypatch.setattr(sampling, "_MIN_RIGHT", min_right)
        options = {"batch_size": 16, "temperature": temperature, "penalty": 1.1, "max_new_tokens": 50}
        answers[min_right] = sample(lm, requests, **options)
    assert answers[0.0] == answers[2.0]
    assert len({len(answer.text.split()) for answer in answers[0.0]}) > 2


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_text_that_repeats_the_prompt_takes_fewer_steps(lm, temperature, monkeypatch):
    """The fusion of captions, which copies them."""
    captions = [caption(event) for event in make_story(0, 0, num_shots=(6, 6)).events]
    requests = [Request(fusion([*captions[i:], *captions[:i]]), i) for i in range(5)]
    answers, steps = {}, Counter()
    for min_right in (0.25, 2.0):
        monkeypatch.setattr(sampling, "_MIN_RIGHT", min_right)
        hook = lm.model.register_forward_pre_hook(lambda *_, key=min_right: steps.update([key]))
        answers[min_right] = sample(lm, requests, batch_size=5, temperature=temperature, max_new_tokens=150)
        hook.remove()
    assert answers[0.25] == answers[2.0]
    assert len(answers[0.25][0].token_ids) > 30
    assert steps[0.25] < 0.7 * steps[2.0]


def test_a_penalty_applies_to_the_tokens_so_far():
    """Equal to transformers' own loop, which decodes greedily with the same penalty."""
    lm = make_lm("qwen2_5_vl")
    prompt, options = "3 4 5", {"repetition_penalty": 1.3, "max_new_tokens": 30, "do_sample": False}
    inputs = lm.inputs([lm.template.render(prompt, with_video=False)])
    ends = sorted(lm.end_ids(with_video=False))
    suppressed = sorted(lm.template.media_ids)
    row = lm.model.generate(**inputs, **options, eos_token_id=ends, suppress_tokens=suppressed)
    text = lm.tokenizer.decode(row[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    (answer,) = sample(lm, [Request(prompt, 0)], temperature=0.0, penalty=1.3, max_new_tokens=30)
    assert answer.text == text.strip()


def test_another_seed_gives_another_answer_except_at_temperature_zero(lm):
    one, other = ([Request("Describe the clip.", seed + i) for i in range(6)] for seed in (0, 100))
    assert sample(lm, one, temperature=3.0) != sample(lm, other, temperature=3.0)
    assert sample(lm, one, temperature=0.0) == sample(lm, other, temperature=0.0)


def test_an_answer_that_the_limit_cut_is_not_whole(lm):
    for limit, is_whole in ((2, False), (100, True)):
        (answer,) = sample(lm, [Request("Describe the clip.", 0)], max_new_tokens=limit)
        assert answer == Answer(answer.text, is_whole)


def test_sampled_reasoning_is_left_out(lm, monkeypatch):
    monkeypatch.setattr(type(lm.tokenizer), "decode", lambda *_, **__: "<think>A?</think> A ring.")
    assert sample(lm, [Request("Describe it.", 0)])[0].text == "A ring."


def test_generation_settings_of_a_checkpoint_are_honoured_or_refused_by_name():
    lm, requests = load_model("embedded"), [Request("Describe the clip.", 0)]
    settings, (plain,) = lm.model.generation_config, sample(lm, requests, temperature=0.0)
    settings.return_dict_in_generate, settings.use_cache = True, False
    settings.cache_implementation = "hybrid"
    assert sample(lm, requests, temperature=0.0) == [plain]
    first, second = plain.text.split()[:2]
    settings.stop_strings = [f" {second}", "never"]
    assert sample(lm, requests, temperature=0.0)[0] == Answer(first, True)
    settings.stop_strings = None
    settings.suppress_tokens = [lm.tokenizer(first)["input_ids"][0]]
    assert not sample(lm, requests, temperature=0.0)[0].text.startswith(first)
    for name, value, known in (
        ("num_beams", 4, 1),
        ("guidance_scale", 2.0, 1),
        ("token_healing", True, False),
        ("max_time", 0.5, None),
    ):
        setattr(settings, name, value)
        with pytest.raises(
            ValueError, match=rf"{name} is {value} .*generation_config\.json.*Set it to {known}"
        ):
            sample(lm, requests)
        setattr(settings, name, known)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_tokens_have_the_models_probabilities(temperature):
    lm = make_lm("qwen2_5_vl")
    request, count = Request("3 4 5", 0), 3000
    inputs = lm.inputs([lm.template.render(request.prompt, with_video=False)])
    with torch.no_grad():
        shares = (lm.model(**inputs).logits[0, -1] / temperature).softmax(dim=-1)
    requests = [replace(request, seed=seed) for seed in range(count)]
    options = {"batch_size": 1000, "temperature": temperature, "max_new_tokens": 1, "penalty": 1.0}
    answers = sample(lm, requests, **options)
    seen = Counter(answer.text for answer in answers)
    likeliest = [int(token) for token in shares.argsort(descending=True) if 3 <= token < 80][:3]
    for token in likeliest:
        expected = float(shares[token])
        spread = (expected * (1 - expected) / count) ** 0.5
        assert seen[str(token)] / count == pytest.approx(expected, abs=4 * spread)
