"""Pairs: responses joined with their videos, filtered (method.md, section 2), and selected.

The filter looks at one pair, the selection at many: duplicates, pairs per video, held-out videos, lengths.
Every pair that is left out becomes a Skipped record with the reason. Random choices depend on the run's seed
and the id of the pair or video, so neither the order of the rows nor other videos change them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tempo.config import PairsConfig
from tempo.core.hashing import derive_seed
from tempo.core.records import Clips, Pair, Response, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.prompts import describe_prompt
from tempo.preference.responses import arrange, clip_of_frames
from tempo.video.frames import FrameStore

STAGE = "pairs"

#: The file of the pairs of held-out videos: training never reads them, evaluation and probe may.
HELD_OUT = "held_out_pairs"

#: Ratios of lengths within this share of each other count as equal; a finer step hardly keeps fewer pairs.
LENGTH_STEP = 0.02


@dataclass(frozen=True)
class Selection:
    """Pairs for training and pairs of held-out videos, both sorted by id, and what was left out and why."""

    pairs: list[Pair]
    held_out: list[Pair]
    skipped: list[Skipped]


def make_pairs(context: Context) -> Selection:
    """The pairs of a run, from its clips and responses."""
    store, seed = RunStore(context.directory), context.config.run.seed
    paths = {row.id: row.path for row in store.read("clips", Clips)}
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    for row in store.read("responses", Responses):
        for left in row.unanswered:
            pair_id = f"{row.id}/{left.kind}-{left.level:02d}"
            skipped.append(_skip(pair_id, "no rejected answer", left.reason))
        for response in row.rejected:
            pair = _make_pair(row, response, describe_prompt(row.id, seed=seed), paths[row.id])
            if fault := pair_fault(pair, context.config.pairs):
                skipped.append(_skip(pair.id, *fault))
            else:
                pairs.append(pair)
    selection = select_pairs(pairs, context.config.pairs, seed=seed)
    kept, held_out = selection.pairs, selection.held_out
    if context.config.pairs.mirror:
        kept, held_out = add_mirrors(kept, context), add_mirrors(held_out, context)
    return Selection(kept, held_out, skipped + selection.skipped)


def _make_pair(row: Responses, response: Response, prompt: str, video: str) -> Pair:
    perturbation = response.perturbation
    return Pair(
        id=f"{row.id}/{perturbation.kind}-{perturbation.level:02d}",
        video_id=row.id,
        video=video,
        prompt=prompt,
        chosen=row.chosen,
        rejected=response.text,
        kind=perturbation.kind,
        level=perturbation.level,
        order=perturbation.order,
        num_clips=row.num_clips,
    )


def pair_fault(pair: Pair, settings: PairsConfig) -> tuple[str, str] | None:
    """Why the filter rejects a pair, as (reason, figure); None if the pair is kept. Lengths count words."""
    chosen, rejected = num_words(pair)
    if pair.chosen == pair.rejected:
        return "same text", f"{chosen} words"
    if pair.chosen in pair.rejected:
        return "chosen is part of rejected", f"{chosen} of {rejected} words"
    if settings.min_difference:
        difference = word_difference(pair.chosen, pair.rejected)
        if difference < settings.min_difference:
            return "texts differ too little", f"{difference:.3f} under {settings.min_difference}"
    if pair.kind == "drop":
        if settings.length == "paper" and chosen <= rejected:
            return "chosen is not longer", f"{chosen} against {rejected} words"
        return None
    ratio = max(chosen, rejected) / max(1, min(chosen, rejected))
    if ratio > settings.max_length_ratio:
        return "lengths differ too much", f"ratio {ratio:.2f} over {settings.max_length_ratio}"
    return None


def word_difference(first: str, second: str) -> float:
    """The share of words that two texts do not have in common in the same order: 0 if equal, 1 if none."""
    matcher = SequenceMatcher(None, first.split(), second.split(), autojunk=False)
    return round(1 - matcher.ratio(), 6)


def num_words(pair: Pair) -> tuple[int, int]:
    """Words of the chosen and of the rejected answer."""
    return len(pair.chosen.split()), len(pair.rejected.split())


def log_length_ratio(pair: Pair) -> float:
    """Logarithm of chosen over rejected length in words: positive if the chosen answer is longer."""
    chosen, rejected = num_words(pair)
    return math.log(max(1, chosen) / max(1, rejected))


def select_pairs(pairs: Iterable[Pair], settings: PairsConfig, *, seed: int) -> Selection:
    """The pairs that the settings keep, split by video into training and held-out pairs."""
    kept, skipped = drop_duplicates(pairs) if settings.drop_duplicates else (list(pairs), [])
    parts: list[list[Pair]] = [[], []]
    for pair in kept:
        is_held_out = derive_seed(seed, pair.video_id, "held out") < settings.held_out_share * 2**63
        parts[is_held_out].append(pair)
    # Lengths last and separately for each part: any later choice would unbalance them again.
    for number, part in enumerate(parts):
        if settings.max_per_video:
            part, left_out = limit_per_video(part, settings.max_per_video, seed=seed)
            skipped += left_out
        if settings.length == "fair":
            part, left_out = balance_lengths(part, seed=seed)
            skipped += left_out
        parts[number] = sorted(part, key=lambda pair: pair.id)
    return Selection(pairs=parts[0], held_out=parts[1], skipped=skipped)


def drop_duplicates(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Skipped]]:
    """Of a video's pairs with the same two texts, the one of the hardest level, which all of them are."""
    first: dict[tuple[str, str, str], Pair] = {}
    skipped = []
    for pair in sorted(pairs, key=lambda pair: (pair.level, pair.id)):
        known = first.setdefault((pair.video_id, pair.chosen, pair.rejected), pair)
        if known is not pair:
            skipped.append(_skip(pair.id, "duplicate", f"same texts as {known.id}"))
    return list(first.values()), skipped


def limit_per_video(pairs: Iterable[Pair], limit: int, *, seed: int) -> tuple[list[Pair], list[Skipped]]:
    """At most `limit` pairs of each video, spread as evenly as possible over its kinds and levels."""
    left: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: derive_seed(seed, pair.id, "choice")):
        left[pair.video_id].append(pair)
    kept: list[Pair] = []
    skipped: list[Skipped] = []
    for rows in left.values():
        detail = f"{len(rows)} pairs, max_per_video is {limit}"
        used: Counter[str | int] = Counter()
        for _ in range(min(limit, len(rows))):
            best = min(rows, key=lambda pair: used[pair.kind] + used[pair.level])
            rows.remove(best)
            used.update((best.kind, best.level))
            kept.append(best)
        skipped += [_skip(pair.id, "too many pairs of one video", detail) for pair in rows]
    return kept, skipped


def balance_lengths(pairs: Iterable[Pair], *, seed: int) -> tuple[list[Pair], list[Skipped]]:
    """As many pairs with the longer as with the shorter chosen answer, for each kind, level and length ratio.

    Every pair of equal lengths stays. A kind whose chosen answer is always the longer one loses all pairs.
    """
    kept: list[Pair] = []
    skipped: list[Skipped] = []
    cells: defaultdict[tuple[str, int, int], tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for pair in sorted(pairs, key=lambda pair: derive_seed(seed, pair.id, "length")):
        ratio = log_length_ratio(pair)
        if ratio == 0:
            kept.append(pair)
        else:
            cells[pair.kind, pair.level, round(abs(ratio) / LENGTH_STEP)][ratio > 0].append(pair)
    for (kind, level, _), (shorter, longer) in cells.items():
        count = min(len(shorter), len(longer))
        kept += shorter[:count] + longer[:count]
        for pair in shorter[count:] + longer[count:]:
            lengths = "{} against {} words".format(*num_words(pair))
            detail = f"{lengths}, no other {kind} pair of level {level} to balance it"
            skipped.append(_skip(pair.id, "length gives it away", detail))
    return kept, skipped


def add_mirrors(pairs: Sequence[Pair], context: Context) -> list[Pair]:
    """The pairs and their mirror images, sorted by id."""
    frames = FrameStore(context.directory / "frames")
    clips = {row.id: row for row in RunStore(context.directory).read("clips", Clips)}
    mirrored = []
    for video_id, rows in groupby(sorted(pairs, key=lambda pair: pair.id), key=lambda pair: pair.video_id):
        clip_T = clip_of_frames(clips[video_id], frames.read(video_id).seconds)
        mirrored += [image for pair in rows if (image := mirror(pair, clip_T))]
    return sorted([*pairs, *mirrored], key=lambda pair: pair.id)


def mirror(pair: Pair, clip_T: NDArray[np.int64]) -> Pair | None:
    """The pair about the perturbed video, with the two answers exchanged; `clip_T` is the clip of each frame.

    None if the perturbation leaves the frames as they were, or none of them.
    """
    shown_T = arrange(clip_T, pair.order)
    if not len(shown_T) or np.array_equal(shown_T, np.arange(len(clip_T))):
        return None
    changes = {"chosen": pair.rejected, "rejected": pair.chosen, "frames": tuple(shown_T.tolist())}
    return pair.model_copy(update={"id": f"{pair.id}/mirror", **changes})


def _skip(pair_id: str, reason: str, detail: str) -> Skipped:
    return Skipped(stage=STAGE, id=pair_id, reason=reason, detail=detail)
