"""The embedded benchmark: TempCompass's five aspects, conflicting videos, and static questions.

Every question is built so that its text says nothing about its answer: right and wrong options come from the
same set with the same frequency, yes and no alternate, and of two objects either is named first in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tempo.core.records import Sample
from tempo.core.seeds import derive_seed
from tempo.preference.prompts import DESCRIBE
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, Event, Story

ORDER = "event_order"
STATIC = "static"
CONFLICTING = "conflicting"


def twin(story: Story) -> Story:
    """The conflicting story: the same shots in reversed order."""
    return Story(id=f"{story.id}-twin", events=story.events[::-1])


def story_samples(story: Story, *, seed: int, number: int) -> list[Sample]:
    """All samples of one held-out story; `number` is its place in the benchmark and balances the answers."""
    rng = np.random.default_rng(derive_seed(seed, story.id, "benchmark"))
    questions = [*_aspects(story.events, rng, number), *_order(story.events, rng, number)]
    questions += [*_static(story.events, rng, number)]
    samples = []
    for index, (aspect, form, question, right, wrong) in enumerate(questions):
        options = [*wrong]
        answer = (number + index) % (len(wrong) + 1)
        options.insert(answer, right)
        samples.append(
            Sample(
                id=f"{story.id}/{index:02d}-{aspect}-{form}",
                video=f"{story.id}.mp4",
                aspect=aspect,
                format=form,
                question=question,
                options=tuple(options),
                answer=answer,
            )
        )
    return samples


def conflicting_samples(story: Story) -> list[Sample]:
    """Two samples with the same two captions, one right for the story, the other for its twin."""
    stories = (story, twin(story))
    options = tuple(language.fuse([language.caption(e) for e in s.events]) for s in stories)
    return [
        Sample(
            id=f"{one.id}/{CONFLICTING}",
            video=f"{one.id}.mp4",
            aspect=CONFLICTING,
            format="caption_matching",
            question=DESCRIBE[0],
            options=options,
            answer=answer,
            group=story.id,
        )
        for answer, one in enumerate(stories)
    ]


#: Aspect, format, question, right option, wrong options.
_Question = tuple[str, str, str, str, Sequence[str]]


def _aspects(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """For each aspect that the story shows: one event in each of the three formats."""
    for turn, aspect in enumerate(ACTIONS):
        shown = [event for event in events if event.aspect == aspect]
        if not shown:
            continue
        event = shown[int(rng.integers(len(shown)))]
        others = [str(other) for other in rng.permutation(language.other_actions(event))[:3]]
        ask, right = language.event_question(event, rng)
        yield aspect, "multiple_choice", ask, right, [language.answer_of(other) for other in others]
        says_yes = (number + turn) % 2 == 0
        check = language.check_of(event, event.action if says_yes else others[0])
        yield aspect, "yes_no", check, *_yes_no(says_yes)
        ask, right = language.thing_caption(event)
        wrong = [language.caption(event.model_copy(update={"action": other})) for other in others]
        yield aspect, "caption_matching", ask, right, wrong


def _order(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """Which of two events comes first, whether one comes before the other, and the order of all."""
    first, second = sorted(int(i) for i in rng.permutation(len(events))[:2])
    pair = [events[first], events[second]]
    shown = pair if number % 2 else pair[::-1]
    answers = [language.first_answer(event) for event in pair]
    yield ORDER, "multiple_choice", language.which_is_first(*shown), answers[0], answers[1:]
    says_yes = number // 2 % 2 == 0
    asked = pair if says_yes else pair[::-1]
    yield ORDER, "yes_no", language.is_before(*asked), *_yes_no(says_yes)
    captions = [language.caption(event) for event in events]
    other = _other_order(len(events), rng)
    wrong = language.fuse([captions[i] for i in other])
    yield ORDER, "caption_matching", DESCRIBE[number % len(DESCRIBE)], language.fuse(captions), [wrong]


def _static(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """Where an object is, and whether an object is there."""
    event = events[int(rng.integers(len(events)))]
    elsewhere = [str(s) for s in rng.permutation(language.other_settings(event))[:3]]
    wrong = [language.place_of(setting) for setting in elsewhere]
    yield STATIC, "multiple_choice", language.where_is(event), language.place_of(event.setting), wrong
    says_yes = number % 2 == 0
    thing = event.thing if says_yes else language.absent_thing(events, rng)
    yield STATIC, "yes_no", f"Is there a {thing}?", *_yes_no(says_yes)


def _yes_no(says_yes: bool) -> tuple[str, list[str]]:
    return ("Yes.", ["No."]) if says_yes else ("No.", ["Yes."])


def _other_order(count: int, rng: np.random.Generator) -> list[int]:
    """A random order of `count` events that is not the true one."""
    while True:
        order = [int(i) for i in rng.permutation(count)]
        if order != list(range(count)):
            return order
