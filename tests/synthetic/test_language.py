"""The world in words: texts are true to the script; their order is true as often as `order_fidelity`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from sample_material import is_true

from tempo.synthetic import language
from tempo.synthetic.benchmark import conflicting_samples, conflicting_stories, story_samples
from tempo.synthetic.world import make_story

STORY = make_story(0, 0, num_shots=(6, 6))
STORIES = [make_story(2, index, num_shots=(4, 12)) for index in range(200)]
NUM_DRAWS = 1500


def near(share, num_draws=NUM_DRAWS):
    """Four standard errors around a share."""
    return pytest.approx(share, abs=4 * math.sqrt(max(share * (1 - share), 1e-9) / num_draws) + 1e-9)


def test_no_text_of_the_world_has_changed():
    """The embedded model was trained on exactly these texts."""
    texts = []
    for number, story in enumerate(STORIES):
        made = language.instructions(story, np.random.default_rng(number), order_fidelity=0.5)
        texts += [part for question in made for part in question]
        texts.append(language.difference(*story.events[:2]))
        samples = story_samples(story, seed=0, number=number)
        for kind, conflicting in conflicting_stories(story, number=number).items():
            samples += conflicting_samples(story, conflicting, kind)
        for sample in samples:
            texts += [sample.id, sample.question, *sample.options, str(sample.answer)]
    assert (
        hashlib.sha256("\n".join(texts).encode()).hexdigest()
        == "f183539a62fd3b1bb45417886dabe056c89700f0b15f47c1f334c19ae6604300"
    )


@pytest.mark.parametrize(
    ("ask", "shares"),
    [
        (lambda events, rng: language.event_check(events[0], rng), {"Yes.": near(0.5), "No.": near(0.5)}),
        (language.static_question, {"In the": near(0.5), "Yes.": near(0.25), "No.": near(0.25)}),
    ],
)
def test_questions_are_answered_truly_and_yes_and_no_are_balanced(ask, shares):
    rng, counts = np.random.default_rng(0), Counter()
    for number in range(NUM_DRAWS):
        events = STORIES[number % 200].events
        question, answer = ask(events, rng)
        assert is_true(events, question, answer)
        # An action that is not possible.
        assert not question.endswith(f"turn {events[0].colour}?")
        counts[answer.rpartition(" ")[0] or answer] += 1
    assert {kind: count / NUM_DRAWS for kind, count in counts.items()} == shares


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_a_story_keeps_its_order_as_often_as_asked_for_and_by_chance(fidelity, count):
    rng, events = np.random.default_rng(0), STORY.events[:count]
    truth = language.fuse([language.caption(e) for e in events])
    texts = [language.story_caption(events, rng, order_fidelity=fidelity) for _ in range(NUM_DRAWS)]
    share = fidelity + (1 - fidelity) / math.factorial(count)
    assert sum(text == truth for text in texts) / NUM_DRAWS == near(share)
    assert all(shown.clause in text for shown in events for text in texts)


@pytest.mark.parametrize(("fidelity", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_an_order_question_is_answered_truly_as_often_as_asked_for_and_by_chance(fidelity, share):
    rng = np.random.default_rng(0)
    drawn = [
        language.order_question(STORY.events, rng, order_fidelity=fidelity) for _ in range(2 * NUM_DRAWS)
    ]
    assert sum(is_true(STORY.events, *one) for one in drawn) / len(drawn) == near(share)
    things = [
        language.neighbor_question(STORY.events, rng, order_fidelity=fidelity) for _ in range(2 * NUM_DRAWS)
    ]
    assert sum(is_true(STORY.events, *one) for one in things) / len(things) == near(share)
    # The words of the question do not give its answer away.
    checks = [answer for question, answer in drawn if question.startswith("Does")]
    choices = [(question, answer) for question, answer in drawn if question.startswith("Which")]
    named_first = [question.split(" the ")[1].startswith(answer[4:-1]) for question, answer in choices]
    assert len(checks) / len(drawn) == near(0.5)
    assert checks.count("Yes.") / len(checks) == near(0.5)
    assert sum(named_first) / len(choices) == near(0.5)
