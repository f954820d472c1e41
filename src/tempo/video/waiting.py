"""Pictures whose shot has not ended yet, and which of them may become key frames.

The rule (method.md, section 2) looks around 1/3 and 2/3 of a clip. Where a clip ends is known only later, so
one pass must keep pictures. It keeps them as they come from shrinking.py, no larger than a stored frame
needs, within HELD_BYTES. What does not fit is kept as a thumbnail with its sharpness, the oldest first: all
is known of it, but what it looks like in full, for which the file is read again if it is wanted
(album.py). Only a shot that outgrows even that is thinned, the sharper of two neighbours stays, again and
again, but never among the last NUM_RECENT pictures, so that no shot is lost however late its cut is told.

At the end of a shot its candidates are chosen: its own two key frames, and the sharpest of each eighth (in a
short shot, of 12 frames). So a clip of one shot gets exactly the frames of the rule. In a clip of several
shots the rule's frame has a candidate at least as sharp less than B frames away, B an eighth of the shot or
up to 24, so its place in the cosine window differs by at most (B - 1) / (radius + 1) quarter turns.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tempo.video.decoding import Picture
from tempo.video.key_frames import choose_key_frames
from tempo.video.shrinking import UNSPECIFIED, Small

#: What the pictures of one video may take in memory: 776 frames of 640x360 or 1280x720 at the default size,
#: and 9,700 thumbnails.
HELD_BYTES = 64 << 20

#: Width and height of the thumbnail that a shot's descriptor and grey range are taken from: noise must not
#: widen the range.
THUMBNAIL_SIZE = (64, 36)

#: More than a detector's cuts are late: those of TransNetV2 by 475.
NUM_RECENT = 512

#: Candidates of a shot for clips of several shots: one for each eighth, in a short shot for each 12 frames.
NUM_BUCKETS, BUCKET_FRAMES = 8, 12


@dataclass(frozen=True)
class Held:
    """A picture that waits, the `index`-th of the video; `is_whole` if a stored frame can be made of it."""

    index: int
    sharpness: float
    source: Picture | Small
    is_whole: bool = True

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self.source.num_bytes

    def thumbnail(self) -> Held:
        """The same as a thumbnail."""
        small = Small(self.source.scaled(*THUMBNAIL_SIZE), "rgb24", UNSPECIFIED, 0, {})
        return dataclasses.replace(self, source=small, is_whole=False)


class Waiting:
    """The pictures of frames from the start of the open shot on; its memory does not grow with the video."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._num_thumbnails = 0
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, one: Held) -> None:
        """Takes the next picture."""
        self._held.append(one)
        self._num_bytes += one.num_bytes
        while self._num_bytes > HELD_BYTES and self._num_thumbnails < len(self._held):
            self._shrink_oldest()
        if self._num_bytes > HELD_BYTES:
            self._thin()

    def take(self, end_frame: int) -> list[Held]:
        """The pictures before `end_frame`, which are let go here."""
        taken = [one for one in self._held if one.index < end_frame]
        self._keep(self._held[len(taken) :])
        return taken

    def _shrink_oldest(self) -> None:
        """Makes a thumbnail of the oldest picture that is none."""
        one = self._held[self._num_thumbnails]
        small = one.thumbnail()
        if small.num_bytes < one.num_bytes:
            self._held[self._num_thumbnails] = small
            self._num_bytes += small.num_bytes - one.num_bytes
        self._num_thumbnails += 1

    def _thin(self) -> None:
        """Of two neighbours the sharper stays, the earlier of equals; the last ones all do."""
        old, recent = self._held[:-NUM_RECENT], self._held[-NUM_RECENT:]
        pairs = (old[at : at + 2] for at in range(0, len(old), 2))
        self._keep([*(max(pair, key=lambda one: one.sharpness) for pair in pairs), *recent])

    def _keep(self, held: list[Held]) -> None:
        """Lets go of the others, which are older ones."""
        self._num_thumbnails = max(0, self._num_thumbnails - (len(self._held) - len(held)))
        self._num_bytes = sum(one.num_bytes for one in held)
        self._held = held


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
