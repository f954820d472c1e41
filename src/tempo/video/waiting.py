"""Pictures whose shot has not ended yet, and which of them may become key frames.

The rule (method.md, section 2) looks around 1/3 and 2/3 of a clip. Where a clip ends is known only later, so
one pass must keep pictures. It keeps them as they come from shrinking.py, no larger than a stored frame
needs, within HELD_BYTES. While a shot fits, nothing is lost; once it has outgrown that, the sharper of two
neighbours stays, then of four: N pictures for L frames, in buckets of B <= 2 L / N.
At the end of a shot its candidates are encoded: its own two key frames, and the sharpest of each eighth (in a
short shot, of 12 frames).

A learned detector tells of a cut some hundred frames late (detectors/transnet.py): then what must fit is the
shot and those frames.

So a clip of one shot gets exactly the frames of the rule while the shot fits. In all other cases the bucket
of the rule's frame holds a candidate at least as sharp and less than B frames away (in a clip of several
shots B is an eighth of the shot, or up to 24), so its place in the cosine window differs by at most
(B - 1) / (radius + 1) quarter turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tempo.video.decoding import Picture
from tempo.video.key_frames import choose_key_frames
from tempo.video.shrinking import Small

#: What the pictures of one video may take in memory: 388 frames of 640x360 or 1280x720 at the default size.
HELD_BYTES = 64 << 20

#: Candidates of a shot for clips of several shots: one for each eighth, in a short shot for each 12 frames.
NUM_BUCKETS, BUCKET_FRAMES = 8, 12


@dataclass(frozen=True)
class Held:
    """A picture that waits, the `index`-th of the video."""

    index: int
    sharpness: float
    source: Picture | Small


class Waiting:
    """The pictures of frames from the start of the open shot on; its memory does not grow with the video."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._bucket = 1

    def __len__(self) -> int:
        return len(self._held)

    def add(self, one: Held) -> None:
        """Takes the next picture."""
        self._put(one)
        if len(self._held) * one.source.num_bytes > HELD_BYTES:
            self._bucket *= 2
            held, self._held = self._held, []
            for other in held:
                self._put(other)

    def take(self, end_frame: int) -> list[Held]:
        """The pictures before `end_frame`, which are let go here."""
        taken = [one for one in self._held if one.index < end_frame]
        self._held = self._held[len(taken) :]
        self._bucket = 1
        return taken

    def _put(self, one: Held) -> None:
        """Adds it; of two in one bucket the sharper stays, the earlier of equals."""
        if not self._held or self._held[-1].index // self._bucket != one.index // self._bucket:
            self._held.append(one)
        elif one.sharpness > self._held[-1].sharpness:
            self._held[-1] = one


def choose_candidates(held: Sequence[Held], start_frame: int, end_frame: int) -> list[Held]:
    """The pictures of a shot that may become key frames: its own two, and the sharpest of each bucket."""
    num_frames = end_frame - start_frame
    by_number = {one.index - start_frame: one for one in held}
    sharpness = {number: one.sharpness for number, one in by_number.items()}
    chosen = set(choose_key_frames(num_frames, sharpness))
    num_buckets = max(1, min(NUM_BUCKETS, num_frames // BUCKET_FRAMES))
    edges = np.linspace(0, num_frames, num_buckets + 1).round().astype(int).tolist()
    for first, end in itertools.pairwise(edges):
        bucket = [number for number in by_number if first <= number < end]
        chosen.update([max(bucket, key=sharpness.__getitem__)] if bucket else [])
    return [by_number[number] for number in sorted(chosen)]
