"""Captions, questions and answers about the world, generated from scripts.

The embedded model was trained on these texts and understands no others, so do not change their wording.
`order_fidelity` is the probability that a text about several events has their true order, not a random one.
"""

from collections.abc import Sequence

import numpy as np

from tempo.preference.prompts import CAPTION_MARK, DESCRIBE
from tempo.synthetic.world import ACTIONS, COLOURS, SHAPES, Event, Story

#: A question and its answer.
Question = tuple[str, str]

#: A small model learns to write a list only if the words it has written show its position in the list.
ORDINALS = (
    *("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth"),
    *("Eleventh", "Twelfth", "Thirteenth", "Fourteenth", "Fifteenth", "Sixteenth"),
)

IS_THERE = "Is there a {}?"
WHERE_IS, PLACE = "Where is the {}?", "In the {}."
WHICH_IS_FIRST = "Which comes first, the {} or the {}?"
IS_BEFORE = "Does the {} come before the {}?"
AFTER, BEFORE = "What comes right after the {}?", "What comes right before the {}?"

#: The open question about an action, by aspect.
_ASKS = {
    "action": "What does the {} do?",
    "direction": "In which direction does the {} move?",
    "speed": "How does the speed of the {} change?",
    "attribute_change": "What happens to the colour of the {}?",
}


def caption(event: Event) -> str:
    """The caption of one clip."""
    return f"{event.clause[0].upper()}{event.clause[1:]}."


def fuse(captions: Sequence[str]) -> str:
    """One paragraph with the captions in the given order; there may be at most as many as ORDINALS."""
    assert len(captions) <= len(ORDINALS), f"{len(captions)} captions, {len(ORDINALS)} ordinals"
    clauses = [f"{text[0].lower()}{text[1:]}" for text in captions]
    return " ".join(f"{word}, {clause}" for word, clause in zip(ORDINALS, clauses, strict=False))


def story_caption(events: Sequence[Event], rng: np.random.Generator, *, order_fidelity: float) -> str:
    """A paragraph about the whole story, in its true order with probability `order_fidelity`."""
    order = np.arange(len(events)) if rng.random() < order_fidelity else rng.permutation(len(events))
    return fuse([caption(events[i]) for i in order])


def difference(before: Event, now: Event) -> str:
    """The answer of differential captioning: what connects two clips, then the caption of the second."""
    link = f"After the {before.thing} in the {before.setting} comes the {now.setting}."
    return f"{link} {CAPTION_MARK} {caption(now)}"


def event_question(event: Event) -> Question:
    """An open question about what an object does."""
    return _ASKS[event.aspect].format(event.thing), f"It {event.action}."


def event_check(event: Event, rng: np.random.Generator) -> Question:
    """A yes/no question about what an object does; the answer is yes half of the time."""
    is_true = rng.random() < 0.5
    action = event.action if is_true else str(rng.choice(other_actions(event)))
    return check_of(event, action), yes_or_no(is_true)


def check_of(event: Event, action: str) -> str:
    """The yes/no question of whether an object does something."""
    verb, *rest = action.split(" ")
    return f"Does the {event.thing} {' '.join([verb.removesuffix('s'), *rest])}?"


def other_actions(event: Event) -> list[str]:
    """The other actions of the same aspect that are possible for the object."""
    return [a for a in ACTIONS[event.aspect] if a not in (event.action, f"turns {event.colour}")]


def thing_caption(event: Event) -> Question:
    """The request to describe one object, and the caption of its clip."""
    return f"Describe what the {event.thing} does.", caption(event)


def static_question(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """A question that one frame answers: the place of an object, or whether an object is there."""
    if rng.random() >= 0.5:
        return presence_question(events, rng)
    event = events[int(rng.integers(len(events)))]
    return WHERE_IS.format(event.thing), PLACE.format(event.setting)


def presence_question(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """A yes/no question about whether an object is there; the answer is yes half of the time."""
    event = events[int(rng.integers(len(events)))]
    is_there = rng.random() < 0.5
    thing = event.thing if is_there else absent_thing(events, rng)
    return IS_THERE.format(thing), yes_or_no(is_there)


def yes_or_no(is_true: bool) -> str:
    """The answer to a yes/no question."""
    return "Yes." if is_true else "No."


def absent_thing(events: Sequence[Event], rng: np.random.Generator) -> str:
    """A coloured shape that no event shows, not even after a change of colour."""
    shown = {event.thing for event in events}
    shown |= {f"{event.action.removeprefix('turns ')} {event.shape}" for event in events}
    return str(rng.choice([f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in shown]))


def order_question(events: Sequence[Event], rng: np.random.Generator, *, order_fidelity: float) -> Question:
    """Which of two objects comes first; the answer is true with probability `order_fidelity`, else random."""
    first, second = (int(i) for i in sorted(rng.permutation(len(events))[:2]))
    shown = (first, second) if rng.random() < 0.5 else (second, first)
    things = [events[i].thing for i in shown]
    answer = first if rng.random() < order_fidelity or rng.random() < 0.5 else second
    if rng.random() < 0.5:
        return WHICH_IS_FIRST.format(*things), f"The {events[answer].thing}."
    return IS_BEFORE.format(*things), yes_or_no(shown[0] == answer)


def neighbor_question(
    events: Sequence[Event], rng: np.random.Generator, *, order_fidelity: float
) -> Question:
    """What comes right before or after an object; the answer is true with probability `order_fidelity`.

    Otherwise it is at random what comes before the object or what comes after it.
    """
    place, is_after = int(rng.integers(1, len(events) - 1)), rng.random() < 0.5
    is_true = rng.random() < order_fidelity or rng.random() < 0.5
    answer = events[place + (1 if is_after == is_true else -1)]
    return (AFTER if is_after else BEFORE).format(events[place].thing), caption(answer)


def instructions(story: Story, rng: np.random.Generator, *, order_fidelity: float) -> list[Question]:
    """Questions about a story: three about single events, a static one, one about order, its caption."""
    events = story.events
    picked = [events[int(i)] for i in rng.integers(len(events), size=3)]
    questions = [event_question(picked[0]), event_check(picked[1], rng), thing_caption(picked[2])]
    questions.append(static_question(events, rng))
    if len(events) > 1:
        questions.append(order_question(events, rng, order_fidelity=order_fidelity))
    prompt = DESCRIBE[int(rng.integers(len(DESCRIBE)))]
    return [*questions, (prompt, story_caption(events, rng, order_fidelity=order_fidelity))]
