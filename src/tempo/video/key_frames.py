"""Which two frames of a clip the model sees as its key frames."""

from __future__ import annotations

import math
from collections.abc import Sequence


def choose_key_frames(sharpness: Sequence[float], candidates: Sequence[int] = ()) -> tuple[int, int]:
    """Two frame numbers within a clip of these frames, earliest first; different if there are two.

    Around 1/3 and 2/3 of the clip, (length / 3) // 2 frames to either side, the best product of sharpness
    and a cosine window that falls off from the centre. Only `candidates`, in order, may be chosen if any are
    given; where a window holds none, the nearest.
    """
    numbers = candidates or range(len(sharpness))
    third = len(sharpness) // 3
    first = _best(sharpness, numbers, third, third // 2)
    later = [number for number in numbers if number > first] or [first]
    return first, _best(sharpness, later, 2 * len(sharpness) // 3, third // 2)


def _best(sharpness: Sequence[float], numbers: Sequence[int], centre: int, radius: int) -> int:
    """The best frame around `centre`, the earliest of equals."""
    scores = {
        number: sharpness[number] * math.cos(math.pi / 2 * (number - centre) / (radius + 1))
        for number in numbers
        if abs(number - centre) <= radius
    }
    if scores:
        return max(scores, key=scores.__getitem__)
    return min(numbers, key=lambda number: abs(number - centre))
