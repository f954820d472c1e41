"""A world with known truth: stories of coloured shapes whose actions have meaning only in time.

A story is a list of events, one per camera shot: a setting, a coloured shape, an action. It is drawn from a
seed alone, so every video, caption and question can be made again from the number of the story.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from tempo.records import Frozen, Record

SIZE = 128
FPS = 12
SHOT_SECONDS = 2.0
SHOT_FRAMES = int(FPS * SHOT_SECONDS)

SETTINGS = ("desert", "forest", "sea", "city", "snow", "night", "field", "cave")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
ACTIONS = {
    "action": ("appears", "disappears", "grows", "shrinks"),
    "direction": ("moves left", "moves right", "moves up", "moves down"),
    "speed": ("speeds up", "slows down"),
    "attribute_change": tuple(f"turns {colour}" for colour in COLOURS),
}

Rgb = tuple[int, int, int]

_PAINT: dict[str, Rgb] = {
    "red": (225, 30, 30),
    "green": (40, 200, 60),
    "blue": (40, 80, 235),
    "yellow": (250, 225, 40),
    "purple": (165, 50, 200),
    "white": (245, 245, 245),
}
#: Sky, ground, decoration; the horizon as a share of the height.
_SCENERY: dict[str, tuple[Rgb, Rgb, Rgb, float]] = {
    "desert": ((240, 200, 140), (205, 150, 85), (180, 125, 65), 0.55),
    "forest": ((90, 130, 100), (45, 85, 45), (25, 60, 30), 0.35),
    "sea": ((150, 205, 235), (30, 110, 160), (60, 140, 190), 0.3),
    "city": ((150, 150, 160), (85, 85, 90), (110, 105, 115), 0.75),
    "snow": ((190, 200, 215), (215, 225, 235), (170, 185, 205), 0.5),
    "night": ((15, 15, 50), (25, 30, 35), (230, 230, 180), 0.8),
    "field": ((120, 190, 250), (140, 175, 60), (115, 150, 45), 0.6),
    "cave": ((60, 45, 40), (85, 65, 55), (40, 30, 28), 0.85),
}


class Event(Frozen):
    """What one shot shows; `drift` (-1 .. 1) moves the path sideways, so that no two shots are alike."""

    setting: str
    colour: str
    shape: str
    aspect: Literal["action", "direction", "speed", "attribute_change"]
    action: str
    drift: float

    @property
    def thing(self) -> str:
        """The coloured shape, which no other event of the story has."""
        return f"{self.colour} {self.shape}"

    @property
    def clause(self) -> str:
        """The event in words, without a capital or a full stop."""
        return f"a {self.thing} {self.action} in the {self.setting}"


class Story(Record):
    """The script of one video; `id` is its file name without the ending."""

    events: tuple[Event, ...]


def make_story(seed: int, index: int, *, num_shots: tuple[int, int], plain: bool = False) -> Story:
    """Story number `index` of a seed, with `num_shots` (least, most) shots.

    A `plain` one is poor in time, as many real videos are: one to three shots.
    """
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(1, 4) if plain else rng.integers(num_shots[0], num_shots[1] + 1))
    things = [int(thing) for thing in rng.permutation(len(COLOURS) * len(SHAPES))[:count]]
    settings = _settings(rng, count)
    taken = set(things)
    events = []
    for setting, thing in zip(settings, things, strict=True):
        events.append(_event(rng, setting, thing, taken))
    return Story(id=f"story-{seed}-{index:05d}", events=tuple(events))


def _event(rng: np.random.Generator, setting: str, thing: int, taken: set[int]) -> Event:
    """A random event of a thing (colour and shape as one number).

    What it turns into joins `taken`: no shape may come to look like another of the story, or a question about
    that one would have two answers.
    """
    colour, shape = COLOURS[thing // len(SHAPES)], SHAPES[thing % len(SHAPES)]
    turned = {f"turns {c}": i * len(SHAPES) + thing % len(SHAPES) for i, c in enumerate(COLOURS)}
    free = {aspect: [a for a in actions if turned.get(a) not in taken] for aspect, actions in ACTIONS.items()}
    aspect = str(rng.choice([name for name, actions in free.items() if actions]))
    action, drift = str(rng.choice(free[aspect])), round(float(rng.uniform(-1, 1)), 3)
    if action in turned:
        taken.add(turned[action])
    return Event.model_validate(
        {
            "setting": setting,
            "colour": colour,
            "shape": shape,
            "aspect": aspect,
            "action": action,
            "drift": drift,
        }
    )


def _settings(rng: np.random.Generator, count: int) -> list[str]:
    """A setting per shot: never twice in a row, none more often than the recurrence rule lets pass."""
    most = min(3, max(1, count // 3))
    while True:
        left = dict.fromkeys(SETTINGS, most)
        chosen: list[str] = []
        while len(chosen) < count:
            free = [s for s in SETTINGS if left[s] and s not in chosen[-1:]]
            if not free:
                break
            chosen.append(str(rng.choice(free)))
            left[chosen[-1]] -= 1
        if len(chosen) == count:
            return chosen


def draw_event(event: Event, time: float) -> Image.Image:
    """The picture [SIZE, SIZE] of an event at a time from 0 (start of the shot) to 1 (its end)."""
    picture = _scenery(event.setting, event.drift)
    paint = _PAINT[event.action.removeprefix("turns ")] if _has_turned(event, time) else _PAINT[event.colour]
    radius = _radius(event.action, time)
    if radius > 0:
        x, y = _place(event, time)
        _draw_shape(ImageDraw.Draw(picture), event.shape, (x * SIZE, y * SIZE), radius * SIZE, paint)
    return picture


def event_frames(event: Event, times: tuple[float, ...], *, size: int = SIZE) -> np.ndarray:
    """Frames uint8 [T, size, size, 3] of an event at the given times."""
    pictures = (draw_event(event, time) for time in times)
    return np.stack(
        [
            np.asarray(p if size == SIZE else p.resize((size, size), Image.Resampling.BICUBIC))
            for p in pictures
        ]
    )


def story_frames(story: Story) -> Iterator[np.ndarray]:
    """All frames uint8 [SIZE, SIZE, 3] of a story at FPS, one after the other."""
    for event in story.events:
        for index in range(SHOT_FRAMES):
            yield np.asarray(draw_event(event, (index + 0.5) / SHOT_FRAMES))


def render_story(story: Story, path: Path) -> None:
    """Writes a story as H.264 in MP4; the file appears whole or not at all."""
    import av

    temporary = path.with_suffix(".tmp.mp4")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "18", "preset": "veryfast", "threads": "1"}
        )
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in story_frames(story):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    temporary.replace(path)


def _has_turned(event: Event, time: float) -> bool:
    return event.action.startswith("turns ") and time >= 0.5


def _radius(action: str, time: float) -> float:
    """Radius as a share of the picture; 0 while the shape is not there."""
    if action == "grows":
        return 0.08 + 0.18 * time
    if action == "shrinks":
        return 0.26 - 0.18 * time
    if (action == "appears" and time < 0.5) or (action == "disappears" and time >= 0.5):
        return 0.0
    return 0.19


def _place(event: Event, time: float) -> tuple[float, float]:
    """Centre of the shape as shares of width and height."""
    along, aside = 0.2 + 0.6 * time, 0.5 + 0.15 * event.drift
    return {
        "moves right": (along, aside),
        "moves left": (1 - along, aside),
        "moves down": (aside, along),
        "moves up": (aside, 1 - along),
        "speeds up": _diagonal(time**3, event.drift),
        "slows down": _diagonal(1 - (1 - time) ** 3, event.drift),
    }.get(event.action, (aside, 0.5 + 0.1 * math.sin(7 * event.drift)))


def _diagonal(share: float, drift: float) -> tuple[float, float]:
    return 0.2 + 0.6 * share, 0.8 - 0.6 * share + 0.06 * drift


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], radius: float, paint: Rgb
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    edge = {"fill": paint, "outline": (0, 0, 0), "width": 2}
    if shape == "circle":
        draw.ellipse(box, **edge)  # type: ignore[arg-type]
    elif shape == "square":
        draw.rectangle(box, **edge)  # type: ignore[arg-type]
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], **edge)  # type: ignore[arg-type]
    elif shape == "cross":
        arm = radius / 3
        for half_width, half_height in ((radius, arm), (arm, radius)):
            draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill=paint)
    else:
        draw.ellipse(box, outline=paint, width=max(2, round(radius / 2.5)))


def _scenery(setting: str, drift: float) -> Image.Image:
    """The empty setting; its decoration moves a little with `drift`."""
    sky, ground, decoration, horizon = _SCENERY[setting]
    picture = Image.new("RGB", (SIZE, SIZE), sky)
    draw = ImageDraw.Draw(picture)
    line = int(horizon * SIZE)
    draw.rectangle((0, line, SIZE, SIZE), fill=ground)
    shift = int(6 * drift)
    if setting == "night":
        for i in range(24):
            x, y = (i * 53 + shift) % SIZE, (i * 31) % line
            draw.ellipse((x, y, x + 1, y + 1), fill=decoration)
    elif setting in ("forest", "city"):
        for x in range(-16 + shift, SIZE, 16):
            top = line - 8 - (x * 7) % 22
            points = [(x, line), (x + 6, top), (x + 12, line)]
            box = (x, top, x + 11, line)
            draw.polygon(points, fill=decoration) if setting == "forest" else draw.rectangle(
                box, fill=decoration
            )
    else:
        for y in range(line + 4, SIZE, 11):
            draw.line((0, y + shift % 5, SIZE, y - shift % 5), fill=decoration, width=2)
    return picture
