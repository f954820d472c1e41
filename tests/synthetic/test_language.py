"""The world in words: texts are true to the script, but for the order, which is as true as the knob says."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tempo.preference.prompts import CAPTION_MARK, DESCRIBE
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES, Event, make_story

STORY = make_story(0, 0, num_shots=(6, 6))
STORIES = [make_story(2, index, num_shots=(4, 12)) for index in range(200)]
NUM_DRAWS = 1500


def event(action, aspect="action", *, colour="red", shape="ring", setting="sea"):
    return Event(setting=setting, colour=colour, shape=shape, aspect=aspect, action=action, drift=0.0)


def near(share, num_draws=NUM_DRAWS):
    """Four standard errors around a share."""
    return pytest.approx(share, abs=4 * math.sqrt(max(share * (1 - share), 1e-9) / num_draws) + 1e-9)


def is_first(events, question, answer):
    """Whether an answer to an order question is true."""
    place = {e.thing: i for i, e in enumerate(events)}
    if named := re.fullmatch(r"Which comes first, the (.+) or the (.+)\?", question):
        one, other = named.groups()
        return answer == f"The {one if place[one] < place[other] else other}."
    one, other = re.fullmatch(r"Does the (.+) come before the (.+)\?", question).groups()
    return answer == ("Yes." if place[one] < place[other] else "No.")


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_fused_paragraph_tells_all_captions_in_the_order_given(count):
    captions = [f"A thing {chr(97 + i)} grows." for i in range(count)]
    told = language.fuse(captions)
    assert re.findall(r"a thing (\w) grows\.", told) == [chr(97 + i) for i in range(count)]
    assert told.startswith("First, a thing a grows.")
    assert told.count(".") == count


def test_words_between_the_captions_are_all_different():
    """A model that writes the paragraph can tell from its own words how far it has come."""
    words = re.findall(r"(\w+), a", language.fuse(["A ring grows."] * 16))
    assert len(set(words)) == len(words) == 16


def test_more_captions_than_there_are_counting_words_are_refused_and_not_cut():
    with pytest.raises((ValueError, AssertionError)):
        language.fuse(["A ring grows."] * 17)


def test_fused_paragraph_of_another_order_is_another_text():
    captions = [language.caption(e) for e in STORY.events]
    assert language.fuse(captions) != language.fuse(captions[::-1])


def test_caption_is_the_clause_as_a_sentence():
    assert language.caption(event("grows")) == "A red ring grows in the sea."


def test_differential_answer_ends_with_the_caption_after_the_mark():
    before, now = STORY.events[:2]
    lead, _, caption = language.difference(before, now).rpartition(f"{CAPTION_MARK} ")
    assert caption == language.caption(now)
    assert before.thing in lead
    assert before.setting in lead
    assert now.setting in lead


@pytest.mark.parametrize(
    ("action", "aspect", "check"),
    [
        ("appears", "action", "Does the red ring appear?"),
        ("disappears", "action", "Does the red ring disappear?"),
        ("grows", "action", "Does the red ring grow?"),
        ("shrinks", "action", "Does the red ring shrink?"),
        ("moves left", "direction", "Does the red ring move left?"),
        ("speeds up", "speed", "Does the red ring speed up?"),
        ("slows down", "speed", "Does the red ring slow down?"),
        ("turns blue", "attribute_change", "Does the red ring turn blue?"),
    ],
)
def test_yes_no_question_is_good_english(action, aspect, check):
    assert language.check_of(event(action, aspect), action) == check


def test_open_question_is_answered_with_the_action():
    for aspect, actions in ACTIONS.items():
        for action in actions:
            question, answer = language.event_question(event(action, aspect, colour="green"), None)
            assert "green ring" in question
            assert answer == f"It {action}."


def test_check_is_answered_truly_and_half_of_the_time_with_yes():
    rng = np.random.default_rng(0)
    answers = []
    for number in range(NUM_DRAWS):
        shown = STORIES[number % 200].events[number % 4]
        question, answer = language.event_check(shown, rng)
        truth = question == language.check_of(shown, shown.action)
        assert answer == ("Yes." if truth else "No.")
        answers.append(answer)
    assert answers.count("Yes.") / NUM_DRAWS == near(0.5)


def test_other_actions_are_wrong_ones_of_the_same_aspect_that_could_have_been():
    for shown in (e for story in STORIES for e in story.events):
        others = language.other_actions(shown)
        assert shown.action not in others
        assert f"turns {shown.colour}" not in others
        assert set(others) < set(ACTIONS[shown.aspect])
        assert len(others) >= 1


def test_absent_thing_is_never_seen_not_even_after_a_change_of_colour():
    rng = np.random.default_rng(0)
    for story in STORIES:
        absent = language.absent_thing(story.events, rng)
        colour, shape = absent.split()
        assert colour in COLOURS
        assert shape in SHAPES
        for shown in story.events:
            turned = shown.action.removeprefix("turns ")
            assert absent not in (shown.thing, f"{turned} {shown.shape}")


def test_other_settings_are_all_but_the_right_one():
    assert sorted([*language.other_settings(event("grows")), "sea"]) == sorted(SETTINGS)


def test_static_question_is_answered_truly():
    rng = np.random.default_rng(0)
    kinds = {"where": 0, "Yes.": 0, "No.": 0}
    for number in range(NUM_DRAWS):
        events = STORIES[number % 200].events
        places = {e.thing: f"In the {e.setting}." for e in events}
        question, answer = language.static_question(events, rng)
        if named := re.fullmatch(r"Where is the (.+)\?", question):
            assert answer == places[named[1]]
            kinds["where"] += 1
        else:
            thing = re.fullmatch(r"Is there a (.+)\?", question)[1]
            assert answer == ("Yes." if thing in places else "No.")
            kinds[answer] += 1
    assert {kind: count / NUM_DRAWS for kind, count in kinds.items()} == {
        "where": near(0.5),
        "Yes.": near(0.25),
        "No.": near(0.25),
    }


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_story_is_told_in_its_order_as_often_as_the_knob_says_and_by_chance(fidelity, count):
    rng = np.random.default_rng(0)
    events = STORY.events[:count]
    truth = language.fuse([language.caption(e) for e in events])
    told = [language.story_caption(events, rng, order_fidelity=fidelity) for _ in range(NUM_DRAWS)]
    assert sum(text == truth for text in told) / NUM_DRAWS == near(
        fidelity + (1 - fidelity) / math.factorial(count)
    )


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_story_told_in_any_order_tells_all_that_happens(fidelity):
    rng = np.random.default_rng(0)
    for story in STORIES:
        text = language.story_caption(story.events, rng, order_fidelity=fidelity)
        assert all(shown.clause in text for shown in story.events)
        assert text.count(".") == len(story.events)


@pytest.mark.parametrize(("fidelity", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_order_question_is_answered_truly_as_often_as_the_knob_says_and_by_chance(fidelity, share):
    rng = np.random.default_rng(0)
    drawn = [language.order_question(STORY.events, rng, order_fidelity=fidelity) for _ in range(NUM_DRAWS)]
    assert sum(is_first(STORY.events, *one) for one in drawn) / NUM_DRAWS == near(share)


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_order_question_gives_nothing_away_by_its_words(fidelity):
    rng = np.random.default_rng(0)
    drawn = [
        language.order_question(STORY.events, rng, order_fidelity=fidelity) for _ in range(2 * NUM_DRAWS)
    ]
    checks = [answer for question, answer in drawn if question.startswith("Does")]
    choices = [(question, answer) for question, answer in drawn if question.startswith("Which")]
    assert len(checks) / len(drawn) == near(0.5)
    assert checks.count("Yes.") / len(checks) == near(0.5)
    named_first = [question.split(" the ")[1].startswith(answer[4:-1]) for question, answer in choices]
    assert sum(named_first) / len(choices) == near(0.5)


def test_instructions_are_six_with_their_story_last():
    for story in STORIES:
        made = language.instructions(story, np.random.default_rng(0), order_fidelity=1.0)
        assert len(made) == 6
        prompt, text = made[-1]
        assert prompt in DESCRIBE
        assert text == language.fuse([language.caption(e) for e in story.events])


def test_story_of_one_event_is_asked_nothing_about_order():
    plain = STORY.model_copy(update={"events": STORY.events[:1]})
    made = language.instructions(plain, np.random.default_rng(0), order_fidelity=0.0)
    assert len(made) == 5
    assert not any("first" in question or "before" in question for question, _ in made)


def test_instructions_are_the_same_for_the_same_generator():
    once, twice = (
        language.instructions(STORY, np.random.default_rng(7), order_fidelity=0.3) for _ in range(2)
    )
    assert once == twice
