"""The benchmark of the embedded world: TempCompass's five aspects, conflicting videos, and static questions.

Most questions are about order: whole descriptions in the right and in another order, conflicting videos, and
what comes right before or after an event. The text of a question does not reveal its answer: right and wrong
options come from the same set with the same frequency and have the same number of events, yes and no
alternate, and the two objects of a pair take turns at being named first.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tempo.core.hashing import derive_seed
from tempo.core.records import Sample
from tempo.preference.prompts import DESCRIBE
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, SETTINGS, Event, Story

#: Aspect, format, question, right option, wrong options.
_Question = tuple[str, str, str, str, Sequence[str]]


def conflicting_stories(story: Story, *, number: int) -> dict[str, Story]:
    """The two stories that conflict with a story, by what was changed; all have the same number of events.

    One is reversed. Depending on `number`, the position of the story in the benchmark, the other has two
    events swapped, begins at a later event, or has one event replaced: by another action of the same object,
    or by an earlier event once more.
    """
    events, rng = story.events, np.random.default_rng(derive_seed(0, story.id, "conflicting"))
    first, second = (int(i) for i in sorted(rng.permutation(len(events))[:2]))
    start = int(rng.integers(1, len(events)))
    swapped, foreign, repeated = [*events], [*events], [*events]
    swapped[first], swapped[second] = events[second], events[first]
    # Another object would be recognized in a single frame.
    action = str(rng.choice(language.other_actions(events[first])))
    foreign[first] = events[first].model_copy(update={"action": action})
    repeated[second] = events[first]
    changed = {"swap": swapped, "rotate": [*events[start:], *events[:start]]}
    changed |= {"foreign": foreign, "repeat": repeated}
    kind = ("swap", "rotate", "foreign", "swap", "rotate", "repeat")[number % 6]
    kinds = {"reverse": events[::-1], kind: tuple(changed[kind])}
    return {name: Story(id=f"{story.id}-{name}", events=shown) for name, shown in kinds.items()}


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


def conflicting_samples(story: Story, other: Story, kind: str) -> list[Sample]:
    """Two samples with the same two captions: one caption is right for the story, the other for `other`.

    They form a group of conflicting videos if both show the same events in another order. If not, their
    aspect is `foreign_event`.
    """
    is_order = kind not in ("foreign", "repeat")
    stories = (story, other)
    options = tuple(language.fuse([language.caption(e) for e in s.events]) for s in stories)
    return [
        Sample(
            id=f"{one.id}/conflicting-{kind}",
            video=f"{one.id}.mp4",
            aspect="conflicting" if is_order else "foreign_event",
            format=kind,
            question=DESCRIBE[0],
            options=options,
            answer=answer,
            group=other.id if is_order else "",
        )
        for answer, one in enumerate(stories)
    ]


def _aspects(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """For each aspect that the story shows: one event in one of three formats, which take turns."""
    for turn, aspect in enumerate(ACTIONS):
        shown = [event for event in events if event.aspect == aspect]
        if not shown:
            continue
        event = shown[int(rng.integers(len(shown)))]
        others = [str(other) for other in rng.permutation(language.other_actions(event))[:3]]
        is_true = number // 3 % 2 == 0
        check = language.check_of(event, event.action if is_true else others[0])
        wrong = [language.caption(event.model_copy(update={"action": other})) for other in others]
        yield [
            (aspect, "multiple_choice", *language.event_question(event), [f"It {one}." for one in others]),
            (aspect, "yes_no", check, *_yes_no(is_true)),
            (aspect, "caption_matching", *language.thing_caption(event), wrong),
        ][(number + turn) % 3]


def _order(events: Sequence[Event], rng: np.random.Generator, number: int) -> Iterator[_Question]:
    """The order of all events, twice; what comes right before or after an event; which of two is first."""
    captions, size = [language.caption(event) for event in events], len(events)
    for turn in range(2):
        order = list(range(size))
        while order == sorted(order):
            order = rng.permutation(size).tolist()
        right, wrong = language.fuse(captions), language.fuse([captions[i] for i in order])
        yield "event_order", "caption_matching", DESCRIBE[(number + turn) % len(DESCRIBE)], right, [wrong]
    for text, step in ((language.AFTER, 1), (language.BEFORE, -1)):
        place = int(rng.integers(1, size - 1))
        beside = [captions[place + step], captions[place - step]]
        yield "before_after", text.split()[3], text.format(events[place].thing), beside[0], beside[1:]
    things = [events[int(i)].thing for i in sorted(rng.permutation(size)[:2])]
    which = language.WHICH_IS_FIRST.format(*(things if number % 2 else things[::-1]))
    yield "first_of_two", "multiple_choice", which, f"The {things[0]}.", [f"The {things[1]}."]
    is_true = number // 2 % 2 == 0
    check = language.IS_BEFORE.format(*(things if is_true else things[::-1]))
    yield "first_of_two", "yes_no", check, *_yes_no(is_true)


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
