"""A world in which the truth is known: stories of coloured shapes whose actions can only be seen over time.

A story is a list of events, one per camera shot: a setting, a coloured shape, an action. It is drawn from a
seed alone, so every video, caption and question can be regenerated from the number of the story.
"""

import numpy as np

from tempo.core.records import Frozen, Record

SETTINGS = ("desert", "forest", "sea", "city", "snow", "night", "field", "cave")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
#: The actions of each aspect.
ACTIONS = {
    "action": ("appears", "disappears", "grows", "shrinks"),
    "direction": ("moves left", "moves right", "moves up", "moves down"),
    "speed": ("speeds up", "slows down"),
    "attribute_change": tuple(f"turns {colour}" for colour in COLOURS),
}


class Event(Frozen):
    """What one shot shows; `drift` (-1 .. 1) moves the path sideways, so that no two shots look alike."""

    setting: str
    colour: str
    shape: str
    aspect: str
    action: str
    drift: float

    @property
    def thing(self) -> str:
        """The coloured shape, which is unique within the story."""
        return f"{self.colour} {self.shape}"

    @property
    def clause(self) -> str:
        """The event in words, without a capital letter or a full stop."""
        return f"a {self.thing} {self.action} in the {self.setting}"


class Story(Record):
    """The script of one video; `id` is its file name without the suffix."""

    events: tuple[Event, ...]


def make_story(seed: int, index: int, *, num_shots: tuple[int, int], plain: bool = False) -> Story:
    """Story number `index` of a seed; `num_shots` are the minimum and maximum number of shots.

    A `plain` story has only one to three: too few events to learn order from, as in many real videos.
    """
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(1, 4) if plain else rng.integers(num_shots[0], num_shots[1] + 1))
    things = [int(thing) for thing in rng.permutation(len(COLOURS) * len(SHAPES))[:count]]
    settings, taken = _settings(rng, count), set(things)
    events = [_event(rng, *pair, taken) for pair in zip(settings, things, strict=True)]
    return Story(id=f"story-{seed}-{index:05d}", events=tuple(events))


def _event(rng: np.random.Generator, setting: str, thing: int, taken: set[int]) -> Event:
    """A random event of a thing (colour and shape as one number) that never looks like one of `taken`."""
    # With two shapes that look alike, a question would have two answers.
    colour, shape = COLOURS[thing // len(SHAPES)], SHAPES[thing % len(SHAPES)]
    turned = {f"turns {c}": i * len(SHAPES) + thing % len(SHAPES) for i, c in enumerate(COLOURS)}
    free = {aspect: [a for a in actions if turned.get(a) not in taken] for aspect, actions in ACTIONS.items()}
    aspect = str(rng.choice([name for name, actions in free.items() if actions]))
    action, drift = str(rng.choice(free[aspect])), round(float(rng.uniform(-1, 1)), 3)
    if action in turned:
        taken.add(turned[action])
    return Event(setting=setting, colour=colour, shape=shape, aspect=aspect, action=action, drift=drift)


def _settings(rng: np.random.Generator, count: int) -> list[str]:
    """A setting per shot: no setting comes twice in a row, or more often than the stage `clips` accepts."""
    most = min(3, max(1, count // 3))
    chosen: list[str] = []
    while len(chosen) < count:
        free = [s for s in SETTINGS if chosen.count(s) < most and s not in chosen[-1:]]
        # Start again if no setting is left.
        chosen = [*chosen, str(rng.choice(free))] if free else []
    return chosen
