"""Clips of footage without cuts: divides a shot at the moments where the picture changes most.

The first pass stores a moment for each half second of a long shot. N: number of moments of a shot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.config import ClipsConfig
from tempo.core.records import Shot
from tempo.video.decode import Image

MOMENT_SECONDS = 0.5

#: Minimum length of a part. Shorter events can hardly be described.
MIN_SECONDS = 2.0

#: Pictures are compared in 32 x 18 cells: large enough to average noise away, small enough to see one person.
CELLS = (32, 18)


def shrink(image: Image) -> NDArray[np.float32]:
    """The brightness [18, 32] of the cells of an RGB image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(grey, CELLS, interpolation=cv2.INTER_AREA), np.float32)


def measure_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """The root mean square difference of two pictures in cells, in grey levels (0 to 255)."""
    return float(cv2.norm(before, after, cv2.NORM_L2)) / math.sqrt(before.size)


def divide(shot: Shot, config: ClipsConfig, *, min_parts: int) -> list[Shot]:
    """The parts of a shot, each at least 2 seconds long; at least `min_parts` if it changes often enough.

    A part is longer than `max_shot_seconds` only if no change where it could be divided exceeds `min_change`.
    """
    seconds = [*(moment.start_seconds for moment in shot.moments), shot.end_seconds]
    changes = [moment.change for moment in shot.moments]
    bounds = [0, *_find_bounds(seconds, changes, config, min_parts), len(changes)]
    return [_part(shot, first, last) for first, last in itertools.pairwise(bounds)] if changes else [shot]


def _find_bounds(
    seconds: Sequence[float], changes: Sequence[float], config: ClipsConfig, min_parts: int
) -> list[int]:
    """The moments that begin a new part; parts longer than `max_shot_seconds` are divided again."""
    penalty = max(fmean(changes), config.min_change) if changes else config.min_change
    bounds = choose_bounds(seconds, changes, penalty)
    while len(bounds) + 1 < min_parts and penalty > config.min_change:
        penalty = max(penalty / 2, config.min_change)
        bounds = choose_bounds(seconds, changes, penalty)
    found = list[int]()
    for first, last in itertools.pairwise([0, *bounds, len(changes)] if bounds else ()):
        found += [first] if first else []
        if seconds[last] - seconds[first] > config.max_shot_seconds:
            inner = _find_bounds(seconds[first : last + 1], [0.0, *changes[first + 1 : last]], config, 2)
            found += [first + index for index in inner]
    return found


def choose_bounds(seconds: Sequence[float], changes: Sequence[float], penalty: float) -> list[int]:
    """The moments, 2 seconds from each other and from both ends, with the largest sum of change - penalty.

    `seconds` [N + 1] are the starts of the moments and the end of the last one, `changes` [N] their changes.
    """
    # The largest sum whose last bound is this moment, and the bound before it; 0 stands for the start.
    totals, previous = [0.0] * len(changes), [0] * len(changes)
    best = num_passed = 0
    for index in range(1, len(changes)):
        while seconds[index] - seconds[num_passed] >= MIN_SECONDS:
            best = num_passed if totals[num_passed] > totals[best] else best
            num_passed += 1
        totals[index] = totals[best] + changes[index] - penalty if num_passed else -math.inf
        previous[index] = best
    allowed = [i for i in range(len(changes)) if not i or seconds[-1] - seconds[i] >= MIN_SECONDS]
    bounds = [max(allowed, key=totals.__getitem__, default=0)]
    while bounds[-1]:
        bounds.append(previous[bounds[-1]])
    return bounds[-2::-1]


def _part(shot: Shot, first: int, last: int) -> Shot:
    """The part of a shot from moment `first` to `last` (exclusive)."""
    moments, after = shot.moments[first:last], shot.moments[last : last + 1]
    changes = {
        "start_frame": moments[0].start_frame,
        "end_frame": after[0].start_frame if after else shot.end_frame,
        "start_seconds": moments[0].start_seconds,
        "end_seconds": after[0].start_seconds if after else shot.end_seconds,
        "candidates": tuple(moment.candidate for moment in moments),
        "sharpness": tuple(moment.sharpness for moment in moments),
        "time_stamps": {moment.candidate: moment.time_stamp for moment in moments if moment.time_stamp},
        "moments": (),
    }
    return shot.model_copy(update=changes)
