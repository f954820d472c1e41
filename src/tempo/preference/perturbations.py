"""A perturbation is a list of clip indices: drop, shuffle, reverse and swap share one type.

The level r controls all kinds: a larger r disturbs more. Not so each single shuffle, which r only cuts into
more pieces: how far it came from the original is measured (`kendall_distance`), not ordered by level. By the
rule `distinct`, the default, the clips are cut into r segments as even as possible (fewer where there are
fewer clips), no perturbation is the original order, levels that would come out the same are merged under the
smallest r that gives them, and no order comes twice for a kind. The rule `paper` is that of the released
code, which has none of these properties (method.md, sections 2 and 3).

`swap` is ours: two clips that lie r // 2 apart change places, all others stay. Whole accounts in another
order can be told apart by many clues; here only the order of two clips is left, and those between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tempo.config import PerturbationsConfig
from tempo.core.records import Captions, Clips, Kind, Perturbation, Perturbations, Skipped
from tempo.core.seeds import derive_seed
from tempo.engine.types import Context, Worker

STAGE = "perturbations"


def make_worker(context: Context) -> Worker:
    """A worker from Captions, or from Clips where nothing is captioned, to Perturbations.

    It drops a video that has none.
    """
    settings, seed = context.config.perturbations, context.config.run.seed

    def work(batch: Sequence[Captions | Clips]) -> Sequence[Perturbations | Skipped]:
        return [_perturb_video(video, settings, seed) for video in batch]

    return work


def _perturb_video(
    video: Captions | Clips, settings: PerturbationsConfig, seed: int
) -> Perturbations | Skipped:
    count = len(video.captions if isinstance(video, Captions) else video.clips)
    made = tuple(perturb_all(count, settings, seed=derive_seed(seed, video.id, STAGE)))
    if not made:
        detail = f"{count} clips, kinds {settings.kinds}, levels {settings.levels}"
        return Skipped(stage=STAGE, id=video.id, reason="nothing to perturb", detail=detail)
    return Perturbations(id=video.id, num_clips=count, perturbations=made)


def perturb_all(num_clips: int, settings: PerturbationsConfig, *, seed: int) -> list[Perturbation]:
    """Every kind at every level that the rule makes, easy (large r) to hard; each from its own draw."""
    make = _as_released_at_all if settings.rule == "paper" else _all_different
    return [p for kind in settings.kinds for p in make(num_clips, kind, settings.levels, seed=seed)]


def _as_released_at_all(
    num_clips: int, kind: Kind, levels: Sequence[int], *, seed: int
) -> Iterable[Perturbation]:
    for level in sorted(levels, reverse=True):
        yield perturb_as_released(num_clips, kind, level, rng=_rng(seed, kind, level))


def _all_different(num_clips: int, kind: Kind, levels: Sequence[int], *, seed: int) -> list[Perturbation]:
    """A kind at each of its distinct levels; a shuffle that came at another level already is drawn again.

    From hard to easy: the more segments, the more orders, so there is always another one.
    """
    made: dict[tuple[int, ...], Perturbation] = {}
    for level in reversed(distinct_levels(num_clips, kind, levels)):
        rng = _rng(seed, kind, level)
        drawn = perturb(num_clips, kind, level, rng=rng)
        while drawn.order in made:
            drawn = perturb(num_clips, kind, level, rng=rng)
        made[drawn.order] = drawn
    return list(made.values())[::-1]


def _rng(seed: int, kind: Kind, level: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, kind, level))


def distinct_levels(num_clips: int, kind: Kind, levels: Sequence[int]) -> list[int]:
    """The levels, largest first, that disturb `num_clips` clips differently; may be none.

    Of levels with the same effect the smallest stays. A shuffle needs three segments: of two, the only
    other order is the reverse.
    """
    smallest: dict[int, int] = {}
    for level in sorted(levels, reverse=True):
        smallest[_effect(num_clips, kind, level)] = level
    useful = {effect for effect in smallest if _is_useful(kind, effect, num_clips)}
    return sorted((smallest[effect] for effect in useful), reverse=True)


def _effect(num_clips: int, kind: Kind, level: int) -> int:
    """What a level comes to: clips kept, distance of the two that change places, or segments."""
    if kind == "drop":
        return _num_kept(num_clips, level)
    # Never both ends: of three clips that would be the reverse.
    return min(level // 2, num_clips - 2) if kind == "swap" else min(level, num_clips)


def perturb(num_clips: int, kind: Kind, level: int, *, rng: np.random.Generator) -> Perturbation:
    """One perturbation; the caller asks only for levels that `distinct_levels` gave."""
    match kind:
        case "drop":
            order = _drop(num_clips, level, rng)
        case "swap":
            order = _swap(num_clips, level, rng)
        case _:
            order = _reorder(num_clips, kind, level, rng)
    assert order != list(range(num_clips)), f"{kind} at level {level} of {num_clips} clips is the identity"
    return _measured(num_clips, kind, level, order)


def perturb_as_released(num_clips: int, kind: Kind, level: int, *, rng: np.random.Generator) -> Perturbation:
    """One perturbation by the authors' rule: blocks of max(1, num_clips // level) consecutive clips.

    The same order may come at several levels, and a shuffle may change nothing.
    """
    if kind == "drop":
        return _measured(num_clips, kind, level, _drop(num_clips, level, rng))
    size = _num_kept(num_clips, level)
    blocks = [list(range(num_clips))[start : start + size] for start in range(0, num_clips, size)]
    places = rng.permutation(len(blocks)).tolist() if kind == "shuffle" else range(len(blocks))[::-1]
    return _measured(num_clips, kind, level, [clip for place in places for clip in blocks[place]])


def kendall_distance(order: Sequence[int]) -> float:
    """The share of pairs that stand in the wrong order: 0 as filmed, 1 fully reversed."""
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    return sum(a > b for a, b in pairs) / len(pairs) if pairs else 0.0


def _measured(num_clips: int, kind: Kind, level: int, order: Sequence[int]) -> Perturbation:
    return Perturbation(
        kind=kind,
        level=level,
        order=tuple(order),
        num_clips=num_clips,
        kept_share=round(len(order) / num_clips, 4),
        kendall_distance=round(kendall_distance(order), 4),
    )


def _is_useful(kind: Kind, effect: int, num_clips: int) -> bool:
    least = {"drop": 1, "swap": 1, "reverse": 2, "shuffle": 3}[kind]
    return least <= effect and not (kind == "drop" and effect >= num_clips)


def _num_kept(num_clips: int, level: int) -> int:
    return max(1, num_clips // level)


def _drop(num_clips: int, level: int, rng: np.random.Generator) -> list[int]:
    return sorted(int(i) for i in rng.permutation(num_clips)[: _num_kept(num_clips, level)])


def _swap(num_clips: int, level: int, rng: np.random.Generator) -> list[int]:
    apart = _effect(num_clips, "swap", level)
    first = int(rng.integers(num_clips - apart))
    order = list(range(num_clips))
    order[first], order[first + apart] = order[first + apart], order[first]
    return order


def _reorder(num_clips: int, kind: Kind, level: int, rng: np.random.Generator) -> list[int]:
    segments = [part.tolist() for part in np.array_split(np.arange(num_clips), min(level, num_clips))]
    order = list(range(len(segments)))
    backwards = order[::-1]
    chosen = backwards
    if kind == "shuffle":
        while chosen in (order, backwards):
            chosen = [int(i) for i in rng.permutation(len(segments))]
    return [clip for index in chosen for clip in segments[index]]
