"""Perturbations: lists of clip indices in which clips are dropped, shuffled, reversed or swapped.

A larger level r changes more. The rule `distinct` (the default) divides the clips into r segments of nearly
equal size. It never gives the original order, gives different orders for all perturbations of a kind, and of
several levels with the same effect uses the smallest. The rule `paper` is that of the authors' released code,
which guarantees none of this.

Two kinds are not part of the method. `swap` exchanges two clips that are r // 2 apart. `replace` keeps as
many clips as `drop`, but shows clips of another video in place of the others: both texts have about the same
length.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import combinations, count
from typing import TYPE_CHECKING, Literal, TypeAlias

from tempo.core.hashing import derive_seed, held_out_draw
from tempo.core.records import Captions, Clips, Kind, Perturbation, Perturbations, Skipped
from tempo.core.store import RunStore

if TYPE_CHECKING:
    # Only for types, because `tempo.perturb` must import quickly.
    import numpy as np

    from tempo.config import PerturbationsConfig
    from tempo.engine.types import Context, Worker

STAGE = "perturbations"

Rule: TypeAlias = Literal["distinct", "paper"]

#: The smallest effect (see `_effect`) with which a kind changes anything. Shuffling needs three segments,
#: because the only other order of two is the reverse.
_LEAST_EFFECT = {"drop": 1, "replace": 1, "swap": 1, "reverse": 2, "shuffle": 3}

#: The kinds that the rule `paper` defines.
PAPER_KINDS = ("drop", "shuffle", "reverse")


def make_worker(context: Context) -> Worker:
    """A worker that maps Captions, or Clips if the run has no captions, to Perturbations."""
    settings, seed = context.config.perturbations, context.config.run.seed
    replace = _replacer(context) if "replace" in settings.kinds else None

    def perturb_video(video: Captions | Clips) -> Perturbations | Skipped:
        size = _num_clips(video)
        every = perturb_all(size, settings, seed=derive_seed(seed, video.id, STAGE))
        made = [replace(video.id, one) if replace and one.kind == "replace" else one for one in every]
        if not (usable := tuple(one for one in made if one)):
            detail = f"{size} clips, kinds {settings.kinds}, levels {settings.levels}"
            return Skipped(stage=STAGE, id=video.id, reason="nothing to perturb", detail=detail)
        return Perturbations(id=video.id, num_clips=size, perturbations=usable)

    return lambda batch: [perturb_video(video) for video in batch]


def _num_clips(video: Captions | Clips) -> int:
    return len(video.captions if isinstance(video, Captions) else video.clips)


def _replacer(context: Context) -> Callable[[str, Perturbation], Perturbation | None]:
    """A function that chooses the clips of one other video for a perturbation; None if no video has enough.

    The captions of several videos would repeat words more often than those of one video, a shortcut. The
    other video is the next in the order of `held_out_draw`, so that each is shown for about one video: words
    of videos that are shown often would be a shortcut, too. The videos with the lowest draws are held out, so
    pairs for training never show their clips, whatever the share.
    """
    import numpy as np

    store, seed = RunStore(context.directory), context.config.run.seed
    is_captioned = context.config.responses.input_form == "captions"
    rows = store.stream("captions", Captions) if is_captioned else store.stream("clips", Clips)
    counts = dict(sorted((row.id, _num_clips(row)) for row in rows))
    draws = {name: held_out_draw(name, seed=seed) for name in counts}
    names = sorted(counts, key=lambda name: (draws[name], name))

    def replace(video_id: str, made: Perturbation) -> Perturbation | None:
        rng = np.random.default_rng(derive_seed(seed, video_id, made.kind, made.level, "other"))
        places = sorted({*range(made.num_clips)} - {*made.order})
        first = bisect_right(names, draws[video_id], key=draws.__getitem__)
        # No slice, which would copy the names of all videos for each perturbation.
        for name in (names[index] for index in range(first, len(names))):
            if counts[name] >= len(places):
                clips = sorted(rng.permutation(counts[name])[: len(places)].tolist())
                replaced = ((place, name, clip) for place, clip in zip(places, clips, strict=True))
                return made.model_copy(update={"replaced": tuple(replaced)})
        return None

    return replace


def perturb_all(num_clips: int, settings: PerturbationsConfig, *, seed: int) -> list[Perturbation]:
    """The perturbations of each kind and level in the settings, from easy (large r) to hard."""
    made: list[Perturbation] = []
    rule = settings.rule
    for kind in settings.kinds:
        levels = settings.levels if rule == "paper" else distinct_levels(num_clips, kind, settings.levels)
        of_kind: list[Perturbation] = []
        # From hard to easy: more segments allow more orders, so there is always an unused one.
        for level in sorted(levels):
            taken = [known.order for known in of_kind] if rule == "distinct" else []
            of_kind.append(_perturb(num_clips, kind, level, seed, rule, taken))
        made += reversed(of_kind)
    return made


def perturb(
    num_clips: int, kind: Kind, level: int, *, seed: int = 0, rule: Rule = "distinct"
) -> Perturbation:
    """One perturbation of `num_clips` clips; its `order` lists the remaining clip indices in their new order.

    For the kind `replace` these are the clips that are kept. Under the rule `distinct` it is never the
    original order; under `paper`, a shuffle may be. Raises ValueError if the kind cannot change so few clips.
    """
    kinds = PAPER_KINDS if rule == "paper" else tuple(_LEAST_EFFECT)
    if kind not in kinds or level < 2:
        raise ValueError(
            f"kind {kind!r} at level {level}: under rule {rule!r}, kind must be one of {', '.join(kinds)}, "
            "and level at least 2"
        )
    if rule == "distinct" and not distinct_levels(num_clips, kind, [level]):
        raise ValueError(
            f"{kind} at level {level} cannot change {num_clips} clips. Use another level or more clips"
        )
    return _perturb(num_clips, kind, level, seed, rule)


def distinct_levels(num_clips: int, kind: Kind, levels: Sequence[int]) -> list[int]:
    """The smallest level for each different effect on `num_clips` clips, largest first; may be empty."""
    smallest = {_effect(num_clips, kind, level): level for level in sorted(levels, reverse=True)}
    most = num_clips - 1 if kind in ("drop", "replace") else num_clips
    return [level for effect, level in smallest.items() if _LEAST_EFFECT[kind] <= effect <= most]


def kendall_distance(order: Sequence[int]) -> float:
    """The share of clip pairs in the wrong order: 0 for the original order, 1 for a full reversal."""
    pairs = list(combinations(order, 2))
    return sum(first > second for first, second in pairs) / len(pairs) if pairs else 0.0


def _effect(num_clips: int, kind: Kind, level: int) -> int:
    """The number of clips kept (drop, replace) or of segments, or the distance of the two clips (swap)."""
    if kind in ("drop", "replace"):
        return max(1, num_clips // level)
    # A swap of the two ends of three clips would be the reverse.
    return min(level // 2, num_clips - 2) if kind == "swap" else min(level, num_clips)


def _perturb(
    num_clips: int, kind: Kind, level: int, seed: int, rule: Rule, taken: Sequence[tuple[int, ...]] = ()
) -> Perturbation:
    import numpy as np

    # Independent of the other kinds and levels, so that changing these does not affect this one.
    rng = np.random.default_rng(derive_seed(seed, kind, level))
    draws = (_draw_order(num_clips, kind, level, rng, rule) for _ in count())
    refused = {*taken}
    if kind == "shuffle" and rule == "distinct":
        refused |= {tuple(range(num_clips)), _draw_order(num_clips, "reverse", level, rng, rule)}
    order = next(order for order in draws if order not in refused)
    return Perturbation(
        kind=kind,
        level=level,
        order=order,
        num_clips=num_clips,
        kept_share=round(len(order) / num_clips, 4),
        kendall_distance=round(kendall_distance(order), 4),
    )


def _draw_order(
    num_clips: int, kind: Kind, level: int, rng: np.random.Generator, rule: Rule
) -> tuple[int, ...]:
    import numpy as np

    effect, clips = _effect(num_clips, kind, level), np.arange(num_clips)
    if kind in ("drop", "replace"):
        return tuple(sorted(rng.permutation(num_clips)[:effect].tolist()))
    if kind == "swap":
        first = int(rng.integers(num_clips - effect))
        clips[[first, first + effect]] = clips[[first + effect, first]]
        return tuple(clips.tolist())
    # The released rule uses blocks of max(1, num_clips // level) clips, the last of which may be shorter.
    size = max(1, num_clips // level)
    segments = np.array_split(clips, range(size, num_clips, size) if rule == "paper" else effect)
    places = rng.permutation(len(segments)) if kind == "shuffle" else range(len(segments))[::-1]
    return tuple(np.concatenate([segments[place] for place in places]).tolist())
