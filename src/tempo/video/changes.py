"""Clips of footage without cuts: divides a shot at the moments where the picture changes most.

The first pass keeps a moment for each half second of a long shot.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect, bisect_left
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.config import ClipsConfig
from tempo.core.records import Moment, Shot
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
    """The parts of a shot, each at least 2 seconds long; the largest changes are considered first.

    The shot is divided at all changes above their mean, and at smaller ones if there are fewer than
    `min_parts` parts or if a part is longer than `max_shot_seconds`, but never at one below `min_change`.
    """
    bounds, edges = list[Moment](), [shot.start_seconds, shot.end_seconds]
    mean = fmean([moment.change for moment in shot.moments] or [0.0])
    moments = [moment for moment in shot.moments if moment.change >= config.min_change]
    for moment in sorted(moments, key=lambda moment: moment.change, reverse=True):
        at = bisect(edges, moment.start_seconds)
        before, after = edges[at - 1 : at + 1]
        is_needed = len(edges) <= min_parts or after - before > config.max_shot_seconds
        is_apart = min(moment.start_seconds - before, after - moment.start_seconds) >= MIN_SECONDS
        if is_apart and (is_needed or moment.change > mean):
            edges.insert(at, moment.start_seconds)
            bounds.insert(at - 1, moment)
    return [_part(shot, *ends) for ends in itertools.pairwise([None, *bounds, None])]


def _part(shot: Shot, start: Moment | None, end: Moment | None) -> Shot:
    """The part of a shot between two moments; None stands for its start and for its end."""
    start_frame = start.start_frame if start else shot.start_frame
    end_frame = end.start_frame if end else shot.end_frame
    inside = slice(bisect_left(shot.candidates, start_frame), bisect_left(shot.candidates, end_frame))
    changed = {
        "start_frame": start_frame,
        "end_frame": end_frame,
        "start_seconds": start.start_seconds if start else shot.start_seconds,
        "end_seconds": end.start_seconds if end else shot.end_seconds,
        "candidates": shot.candidates[inside],
        "sharpness": shot.sharpness[inside],
        "moments": (),
    }
    return shot.model_copy(update=changed)
