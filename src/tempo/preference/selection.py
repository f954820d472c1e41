"""Which of the pairs that pass the filter are kept: rules over many pairs, where the filter sees one.

Each rule takes pairs and returns those kept, and those dropped with what stopped them. Draws come from the
run's seed and the id of pair or video, so neither their order nor other videos decide which are held out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from tempo.config import PairsConfig
from tempo.core.records import Pair, Skipped
from tempo.core.seeds import derive_seed

STAGE = "pairs"

#: Ratios of length that lie within this share of each other count as equal; finer keeps hardly fewer pairs.
LENGTH_STEP = 0.02

Sieved: TypeAlias = tuple[list[Pair], list[Skipped]]


@dataclass(frozen=True)
class Selection:
    """Pairs to train on, pairs of held-out videos, both sorted by id, and what was dropped."""

    pairs: list[Pair]
    held_out: list[Pair]
    drops: list[Skipped]


def select_pairs(pairs: Iterable[Pair], settings: PairsConfig, *, seed: int) -> Selection:
    """The pairs that the settings keep, split by video."""
    kept, drops = drop_duplicates(pairs) if settings.drop_duplicates else (list(pairs), [])
    parts: list[list[Pair]] = [[], []]
    for pair in kept:
        parts[is_held_out(pair.video_id, settings.held_out_share, seed=seed)].append(pair)
    # Fair lengths last, and each part by itself: any later choice would tilt the balance again.
    for number, part in enumerate(parts):
        if settings.max_per_video:
            part, dropped = cap_videos(part, settings.max_per_video, seed=seed)
            drops += dropped
        if settings.length == "fair":
            part, dropped = balance_lengths(part, seed=seed)
            drops += dropped
        parts[number] = sorted(part, key=lambda pair: pair.id)
    return Selection(pairs=parts[0], held_out=parts[1], drops=drops)


def is_held_out(video_id: str, share: float, *, seed: int) -> bool:
    """Whether a video belongs to the held-out `share`."""
    return derive_seed(seed, video_id, "held out") < share * 2**63


def drop_duplicates(pairs: Iterable[Pair]) -> Sieved:
    """Of a video's pairs with the same two texts one stays, at the hardest level: it is as hard as that."""
    first: dict[tuple[str, str, str], Pair] = {}
    drops = []
    for pair in sorted(pairs, key=lambda pair: (pair.level, pair.id)):
        known = first.setdefault((pair.video_id, pair.chosen, pair.rejected), pair)
        if known is not pair:
            drops.append(_drop(pair, "duplicate", f"same texts as {known.id}"))
    return list(first.values()), drops


def cap_videos(pairs: Iterable[Pair], limit: int, *, seed: int) -> Sieved:
    """At most `limit` pairs of each video, spread over its kinds and levels as evenly as they can."""
    by_video: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_video[pair.video_id].append(pair)
    kept: list[Pair] = []
    drops: list[Skipped] = []
    for rows in by_video.values():
        chosen = _spread(rows, limit, seed=seed)
        kept += chosen
        ids = {pair.id for pair in chosen}
        detail = f"{len(rows)} pairs, max_per_video is {limit}"
        drops += [_drop(pair, "too many pairs of one video", detail) for pair in rows if pair.id not in ids]
    return kept, drops


def _spread(pairs: Iterable[Pair], limit: int, *, seed: int) -> list[Pair]:
    """Up to `limit` pairs, each of the kind and level used least so far; the seed decides between equals."""
    left = sorted(pairs, key=lambda pair: derive_seed(seed, pair.id, "choice"))
    used: Counter[str | int] = Counter()
    chosen: list[Pair] = []
    while left and len(chosen) < limit:
        best = min(left, key=lambda pair: used[pair.kind] + used[pair.level])
        left.remove(best)
        used.update((best.kind, best.level))
        chosen.append(best)
    return chosen


def balance_lengths(pairs: Iterable[Pair], *, seed: int) -> Sieved:
    """As many pairs with the longer as with the shorter chosen answer, at each ratio of lengths.

    This holds for each kind and level by itself, so also for whatever phases choose from them. Pairs of equal
    length all stay; of the others those stay, drawn by the seed, that a pair the other way round stands
    against. A kind whose chosen answer is always the longer one therefore loses all its pairs.
    """
    kept: list[Pair] = []
    drops: list[Skipped] = []
    cells: defaultdict[tuple[str, int, int], tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for pair in sorted(pairs, key=lambda pair: derive_seed(seed, pair.id, "length")):
        ratio = log_length_ratio(pair)
        if ratio == 0:
            kept.append(pair)
        else:
            cells[pair.kind, pair.level, round(abs(ratio) / LENGTH_STEP)][ratio > 0].append(pair)
    for shorter, longer in cells.values():
        count = min(len(shorter), len(longer))
        kept += shorter[:count] + longer[:count]
        drops += [
            _drop(pair, "length gives it away", _lengths(pair)) for pair in shorter[count:] + longer[count:]
        ]
    return kept, drops


def num_words(pair: Pair) -> tuple[int, int]:
    """Words of the chosen and of the rejected answer."""
    return len(pair.chosen.split()), len(pair.rejected.split())


def log_length_ratio(pair: Pair) -> float:
    """Logarithm of chosen over rejected length in words; over 0 where the chosen answer is longer."""
    chosen, rejected = num_words(pair)
    return math.log(max(1, chosen) / max(1, rejected))


def _lengths(pair: Pair) -> str:
    chosen, rejected = num_words(pair)
    return f"{chosen} against {rejected} words, no other {pair.kind} pair of level {pair.level} to balance it"


def _drop(pair: Pair, reason: str, detail: str) -> Skipped:
    return Skipped(stage=STAGE, id=pair.id, reason=reason, detail=detail)
