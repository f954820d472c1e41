"""Films with known transitions: rendered and natural shots, joined in three ways. A shot has T frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from tempo.synthetic.drawing import draw_event
from tempo.synthetic.world import make_story
from tempo.video.decode import Scaler, decode

FPS = 24

#: Length of a shot. Some of it is left between two gradual transitions, each of at most a second.
SHOT_SECONDS = (2.6, 3.2)
TRANSITION_SECONDS = (0.5, 1.0)

#: Width and height of natural films.
SIZE = (480, 270)

#: Unused frames at both ends of a known shot, because the list of shots may be off by a few frames.
MARGIN_SECONDS = 0.2

Frames: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Transition:
    """From the first frame that is not purely the old shot to the first that is purely the new one."""

    first: int
    end: int


@dataclass(frozen=True)
class Source:
    """A part of a file without a cut."""

    path: Path
    start_seconds: float
    end_seconds: float


def hard(old: Frames, new: Frames, length: int) -> tuple[int, Frames]:
    """The number of frames that a transition takes from each shot, and its own frames: none."""
    return 0, old[:0]


def dissolve(old: Frames, new: Frames, length: int) -> tuple[int, Frames]:
    """`length` frames of both, mixed."""
    share = np.linspace(0, 1, length + 2, dtype=np.float32)[1:-1, None, None, None]
    return length, ((1 - share) * old[-length:] + share * new[:length]).round().astype(np.uint8)


def fade(old: Frames, new: Frames, length: int) -> tuple[int, Frames]:
    """Half of `length` down to black, half up again; two frames are all black."""
    half = length // 2
    share = np.linspace(0, 1, half + 1, dtype=np.float32)[:-1, None, None, None]
    frames = np.concatenate([share[::-1] * old[-half:], share * new[:half]])
    return half, frames.round().astype(np.uint8)


TRANSITIONS = {"hard cut": hard, "dissolve": dissolve, "fade through black": fade}


def join(
    shots: Sequence[Frames], name: str, rng: np.random.Generator
) -> tuple[list[Frames], list[Transition]]:
    """The shots one after the other as pieces [T, H, W, 3], and the transitions between them."""
    low, high = (round(FPS * seconds) for seconds in TRANSITION_SECONDS)
    pieces: list[Frames] = []
    transitions: list[Transition] = []
    rest = shots[0]
    for shot in shots[1:]:
        num_taken, between = TRANSITIONS[name](rest, shot, int(rng.integers(low, high + 1)))
        pieces += [rest[: len(rest) - num_taken], between]
        end = sum(map(len, pieces))
        transitions.append(Transition(end - len(between), end))
        rest = shot[num_taken:]
    return [*pieces, rest], transitions


def write(pieces: Sequence[Frames], path: Path) -> None:
    """Encodes the pieces as H.264 of good quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "20", "threads": "1"}
        )
        stream.height, stream.width = pieces[0].shape[1:3]
        stream.pix_fmt = "yuv420p"
        for piece in pieces:
            for image in piece:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def draw_shots(seed: int, count: int) -> list[Frames]:
    """A story's shots."""
    rng = np.random.default_rng(seed)
    story = make_story(seed, 0, num_shots=(count, count))
    lengths = [_draw_length(rng) for _ in story.events]
    return [
        np.stack([np.asarray(draw_event(event, (index + 0.5) / length)) for index in range(length)])
        for event, length in zip(story.events, lengths, strict=True)
    ]


def find_sources(folder: Path) -> tuple[list[Source], list[Source]]:
    """The files of one shot, and the known shots of the film Big Buck Bunny; those that are long enough.

    Of one shot are those of which manifest.csv says so. The film's shots are those of the `.gt.json` files;
    the file of one shot that is a part of the film would show one of them again, and damage is no nature.
    """
    with (folder / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["shots"] == "1"]
    live = [
        Source(folder / row["file"], 0.0, float(row["duration"]))
        for row in rows
        if not Path(row["file"]).name.startswith(("bbb_", "corrupted_"))
    ]
    film = []
    for path in sorted(folder.rglob("*.gt.json")):
        truth = json.loads(path.read_text())
        bounds = [
            (shot["start_frame"] / truth["fps"], shot["end_frame"] / truth["fps"]) for shot in truth["shots"]
        ]
        film += [Source(path.with_name(truth["file"]), start, end) for start, end in bounds]
    return [one for one in live if _is_long(one)], [one for one in film if _is_long(one)]


def cut_out_shots(folder: Path, seed: int) -> list[Frames]:
    """A part of every file of one shot and of as many shots of the film, in random order."""
    rng = np.random.default_rng(seed)
    live, film = find_sources(folder)
    chosen = [*live, *(film[index] for index in rng.permutation(len(film))[: len(live)])]
    return [_cut_out(chosen[index], rng) for index in rng.permutation(len(chosen))]


def _cut_out(source: Source, rng: np.random.Generator) -> Frames:
    """A random part. Frames of a file with another rate are repeated or dropped, as video editors do."""
    length = _draw_length(rng)
    latest = source.end_seconds - MARGIN_SECONDS - length / FPS
    start_seconds = float(rng.uniform(source.start_seconds + MARGIN_SECONDS, latest))
    frames: list[Frames] = []
    scaler = Scaler()
    for frame in decode(source.path):
        while len(frames) < length and start_seconds + len(frames) / FPS < frame.end_seconds:
            frames.append(scaler.scale(frame.decoded, SIZE))
        if len(frames) == length:
            break
    return np.stack(frames)


def _draw_length(rng: np.random.Generator) -> int:
    low, high = (round(FPS * seconds) for seconds in SHOT_SECONDS)
    return int(rng.integers(low, high + 1))


def _is_long(source: Source) -> bool:
    return source.end_seconds - source.start_seconds > SHOT_SECONDS[1] + 2 * MARGIN_SECONDS + 0.1
