"""Which two frames of a clip the model sees as its key frames."""

from __future__ import annotations

import math
from collections.abc import Mapping


def choose_key_frames(num_frames: int, sharpness: Mapping[int, float]) -> tuple[int, int]:
    """Two frame numbers within a clip of `num_frames`, earliest first; different if there are two.

    Around 1/3 and 2/3 of the clip, (num_frames / 3) // 2 frames to either side, the best product of sharpness
    and a cosine window that falls off from the centre. Only frames with a `sharpness`, which come in order,
    may be chosen; where a window holds none, the nearest.
    """
    third = num_frames // 3
    first = _best(sharpness, third, third // 2)
    later = {number: value for number, value in sharpness.items() if number > first} or {first: 0.0}
    return first, _best(later, 2 * num_frames // 3, third // 2)


def _best(sharpness: Mapping[int, float], centre: int, radius: int) -> int:
    """The best frame around `centre`, the earliest of equals."""
    scores = {
        number: value * math.cos(math.pi / 2 * (number - centre) / (radius + 1))
        for number, value in sharpness.items()
        if abs(number - centre) <= radius
    }
    if scores:
        return max(scores, key=scores.__getitem__)
    return min(sharpness, key=lambda number: abs(number - centre))
