"""The benchmark of the embedded world: TempCompass's five aspects, conflicting videos, and static questions.

The text of a question does not reveal its answer: right and wrong options come from the same set with the
same frequency, yes and no alternate, and the two objects of a pair take turns at being named first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tempo.core.hashing import derive_seed
from tempo.core.records import Sample
from tempo.preference.prompts import DESCRIBE
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, SETTINGS, Event, Story

#: Aspect, format, question, right option, wrong options.
_Question = tuple[str, str, str, str, Sequence[str]]


def twin(story: Story) -> Story:
    """The conflicting story: the same shots in reversed order."""
    return Story(id=f"{story.id}-twin", events=story.events[::-1])


def story_samples(story: Story, *, seed: int, number: int) -> list[Sample]:
    """All samples of one held-out story; `number`, its position in the benchmark, balances the answers."""
    rng = np.random.default_rng(derive_seed(seed, story.id, "benchmark"))
    questions = [q for part in (_aspects, _order, _static) for q in part(story.events, rng, number)]
    return [
        Sample(
            id=f"{story.id}/{index:02d}-{aspect}-{form}",
            video=f"{story.id}.mp4",
            aspect=aspect,
            format=form,
            question=question,
            options=(*wrong[:answer], right, *wrong[answer:]),
            answer=answer,
        )
        for index, (aspect, form, question, right, wrong) in enumerate(questions)
        for answer in [(number + index) % (len(wrong) + 1)]
    ]


def conflicting_samples(story: Story) -> list[Sample]:
    """Two samples with the same two captions: one caption is right for the story, the other for its twin."""
    stories = (story, twin(story))
    options = tuple(language.fuse([language.caption(e) for e in s.events]) for s in stories)
    return [
        Sample(
            id=f"{one.id}/conflicting",
            video=f"{one.id}.mp4",
            aspect="conflicting",
            format="caption_matching",
            question=DESCRIBE[0],
            options=options,
            answer=answer,
            group=story.id,
        )
        for answer, one in enumerate(stories)
    ]


def _aspects(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """For each aspect that the story shows: one event in each of the three formats."""
    for turn, aspect in enumerate(ACTIONS):
        shown = [event for event in events if event.aspect == aspect]
        if not shown:
            continue
        event = shown[int(rng.integers(len(shown)))]
        others = [str(other) for other in rng.permutation(language.other_actions(event))[:3]]
        yield aspect, "multiple_choice", *language.event_question(event), [f"It {one}." for one in others]
        is_true = (number + turn) % 2 == 0
        check = language.check_of(event, event.action if is_true else others[0])
        yield aspect, "yes_no", check, *_yes_no(is_true)
        wrong = [language.caption(event.model_copy(update={"action": other})) for other in others]
        yield aspect, "caption_matching", *language.thing_caption(event), wrong


def _order(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """Which of two events comes first, whether one comes before the other, and the order of all."""
    things = [events[int(i)].thing for i in sorted(rng.permutation(len(events))[:2])]
    which = language.WHICH_IS_FIRST.format(*(things if number % 2 else things[::-1]))
    yield "event_order", "multiple_choice", which, f"The {things[0]}.", [f"The {things[1]}."]
    is_true = number // 2 % 2 == 0
    check = language.IS_BEFORE.format(*(things if is_true else things[::-1]))
    yield "event_order", "yes_no", check, *_yes_no(is_true)
    captions, order = [language.caption(event) for event in events], list(range(len(events)))
    while order == sorted(order):
        order = rng.permutation(len(events)).tolist()
    right, wrong = language.fuse(captions), language.fuse([captions[i] for i in order])
    yield "event_order", "caption_matching", DESCRIBE[number % len(DESCRIBE)], right, [wrong]


def _static(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """Where an object is, and whether an object is there."""
    event = events[int(rng.integers(len(events)))]
    elsewhere = rng.permutation([setting for setting in SETTINGS if setting != event.setting])[:3]
    right, *wrong = (language.PLACE.format(setting) for setting in (event.setting, *elsewhere))
    yield "static", "multiple_choice", language.WHERE_IS.format(event.thing), right, wrong
    thing = language.absent_thing(events, rng) if number % 2 else event.thing
    yield "static", "yes_no", language.IS_THERE.format(thing), *_yes_no(number % 2 == 0)


def _yes_no(is_true: bool) -> tuple[str, list[str]]:
    return language.yes_or_no(is_true), [language.yes_or_no(not is_true)]
