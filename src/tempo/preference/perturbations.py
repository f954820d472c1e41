"""Perturbations: lists of clip indices in which clips are dropped, shuffled, reversed or swapped.

The level r controls every kind: a larger r disturbs more. The rule `distinct` (the default) cuts the clips
into r segments of nearly equal size. No perturbation is the original order, a kind never has the same order
twice, and levels with the same effect are merged into the smallest of them. The rule `paper` is that of the
authors' released code, which has none of these properties (method.md, sections 2 and 3).

The kind `swap` is not part of the method: two clips that are r // 2 apart change places, so the order of two
clips is all that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypeAlias

from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Clips, Kind, Perturbation, Perturbations, Skipped

if TYPE_CHECKING:
    # `tempo.perturb` has to import quickly.
    import numpy as np

    from tempo.config import PerturbationsConfig
    from tempo.engine.types import Context, Worker

STAGE = "perturbations"

Rule: TypeAlias = Literal["distinct", "paper"]

#: The smallest effect (see `_effect`) at which a kind changes anything. The only other order of two segments
#: is the reverse, so a shuffle needs three.
_LEAST_EFFECT = {"drop": 1, "swap": 1, "reverse": 2, "shuffle": 3}


def make_worker(context: Context) -> Worker:
    """A worker from Captions, or from Clips if the run has no captions, to Perturbations."""
    settings, seed = context.config.perturbations, context.config.run.seed

    def perturb_video(video: Captions | Clips) -> Perturbations | Skipped:
        count = len(video.captions if isinstance(video, Captions) else video.clips)
        made = tuple(perturb_all(count, settings, seed=derive_seed(seed, video.id, STAGE)))
        if not made:
            detail = f"{count} clips, kinds {settings.kinds}, levels {settings.levels}"
            return Skipped(stage=STAGE, id=video.id, reason="nothing to perturb", detail=detail)
        return Perturbations(id=video.id, num_clips=count, perturbations=made)

    return lambda batch: [perturb_video(video) for video in batch]


def perturb_all(num_clips: int, settings: PerturbationsConfig, *, seed: int) -> list[Perturbation]:
    """The perturbations of every kind and level in the settings, from easy (large r) to hard.

    Each has its own random generator, so a change of the settings does not change the others.
    """
    if settings.rule == "distinct":
        return [
            p for kind in settings.kinds for p in _distinct_orders(num_clips, kind, settings.levels, seed)
        ]
    levels = sorted(settings.levels, reverse=True)
    return [
        perturb(num_clips, kind, level, seed=seed, rule="paper")
        for kind in settings.kinds
        for level in levels
    ]


def perturb(
    num_clips: int, kind: Kind, level: int, *, seed: int = 0, rule: Rule = "distinct"
) -> Perturbation:
    """One perturbation of `num_clips` clips; its `order` lists the remaining clip indices in their new order.

    By the rule `distinct` it is never the original order; by the rule `paper` a shuffle may be. Raises
    ValueError if the kind at this level cannot change so few clips.
    """
    if kind not in _LEAST_EFFECT or level < 2 or (rule == "paper" and kind == "swap"):
        raise ValueError(
            f"kind {kind!r} at level {level}: by the rule {rule!r} a kind is one of drop, shuffle, reverse"
            f"{'' if rule == 'paper' else ', swap'}, and a level is at least 2"
        )
    rng = _generator(seed, kind, level)
    if rule == "paper":
        return _measured(num_clips, kind, level, _paper_order(num_clips, kind, level, rng))
    if not distinct_levels(num_clips, kind, [level]):
        raise ValueError(f"{kind} at level {level} cannot change {num_clips} clips")
    return _measured(num_clips, kind, level, _distinct_order(num_clips, kind, level, rng))


def distinct_levels(num_clips: int, kind: Kind, levels: Sequence[int]) -> list[int]:
    """The levels that have different effects on `num_clips` clips, largest first; may be empty.

    Of several levels with the same effect the smallest remains.
    """
    smallest = {_effect(num_clips, kind, level): level for level in sorted(levels, reverse=True)}
    most = num_clips - 1 if kind == "drop" else num_clips
    useful = [level for effect, level in smallest.items() if _LEAST_EFFECT[kind] <= effect <= most]
    return sorted(useful, reverse=True)


def kendall_distance(order: Sequence[int]) -> float:
    """The share of pairs that are in the wrong order: 0 for the original order, 1 for a full reversal."""
    pairs = list(combinations(order, 2))
    return sum(first > second for first, second in pairs) / len(pairs) if pairs else 0.0


def _distinct_orders(num_clips: int, kind: Kind, levels: Sequence[int], seed: int) -> list[Perturbation]:
    """A perturbation for each distinct level; a shuffle is drawn again if a smaller level has its order."""
    made: dict[tuple[int, ...], Perturbation] = {}
    # From hard to easy: more segments have more orders, so there is always another one.
    for level in reversed(distinct_levels(num_clips, kind, levels)):
        rng = _generator(seed, kind, level)
        order = _distinct_order(num_clips, kind, level, rng)
        while tuple(order) in made:
            order = _distinct_order(num_clips, kind, level, rng)
        made[tuple(order)] = _measured(num_clips, kind, level, order)
    return list(made.values())[::-1]


def _effect(num_clips: int, kind: Kind, level: int) -> int:
    """What a level amounts to: clips kept (drop), distance of the two clips (swap), or number of segments."""
    if kind == "drop":
        return max(1, num_clips // level)
    # A swap of the two ends of three clips would be the reverse.
    return min(level // 2, num_clips - 2) if kind == "swap" else min(level, num_clips)


def _distinct_order(num_clips: int, kind: Kind, level: int, rng: np.random.Generator) -> list[int]:
    effect = _effect(num_clips, kind, level)
    if kind == "drop":
        return _keep(num_clips, effect, rng)
    if kind == "swap":
        order, first = list(range(num_clips)), int(rng.integers(num_clips - effect))
        order[first], order[first + effect] = order[first + effect], order[first]
        return order
    size, num_longer = divmod(num_clips, effect)
    starts = [place * size + min(place, num_longer) for place in range(effect + 1)]
    original = list(range(effect))
    places = original[::-1]
    if kind == "shuffle":
        while places in (original, original[::-1]):
            places = rng.permutation(effect).tolist()
    return [clip for place in places for clip in range(starts[place], starts[place + 1])]


def _paper_order(num_clips: int, kind: Kind, level: int, rng: np.random.Generator) -> list[int]:
    """The released rule: blocks of max(1, num_clips // level) consecutive clips."""
    size = max(1, num_clips // level)
    if kind == "drop":
        return _keep(num_clips, size, rng)
    blocks = [range(start, min(start + size, num_clips)) for start in range(0, num_clips, size)]
    places = rng.permutation(len(blocks)).tolist() if kind == "shuffle" else range(len(blocks))[::-1]
    return [clip for place in places for clip in blocks[place]]


def _keep(num_clips: int, count: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(num_clips)[:count].tolist())


def _generator(seed: int, kind: Kind, level: int) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng(derive_seed(seed, kind, level))


def _measured(num_clips: int, kind: Kind, level: int, order: Sequence[int]) -> Perturbation:
    return Perturbation(
        kind=kind,
        level=level,
        order=tuple(order),
        num_clips=num_clips,
        kept_share=round(len(order) / num_clips, 4),
        kendall_distance=round(kendall_distance(order), 4),
    )
