"""Responses to training pairs, through the pair filter (method.md, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempo.config import PairsConfig
from tempo.core.records import Clips, Pair, Response, Responses, Skipped, Unanswered
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.inputs import arrange, clip_of_frames
from tempo.preference.prompts import describe_prompt
from tempo.preference.selection import STAGE, Selection, num_words, select_pairs
from tempo.video.frames import FrameStore

#: Pairs of held-out videos: training never reads them, evaluation and the probe may.
HELD_OUT = "held_out_pairs"


def make_pairs(context: Context) -> Selection:
    """The pairs of the run that pass the filter and the selection, and those that do not, with the reason."""
    store = RunStore(context.directory)
    seed = context.config.run.seed
    paths = {row.id: row.path for row in store.read("clips", Clips)}
    pairs: list[Pair] = []
    drops: list[Skipped] = []
    for row in store.read("responses", Responses):
        prompt = describe_prompt(row.id, seed=seed)
        drops += [_unanswered(row.id, left) for left in row.unanswered]
        for response in row.rejected:
            pair = _pair(row, response, prompt, Path(paths[row.id]))
            fault = pair_fault(pair, context.config.pairs)
            if fault:
                drops.append(Skipped(stage=STAGE, id=pair.id, reason=fault[0], detail=fault[1]))
            else:
                pairs.append(pair)
    selection = select_pairs(pairs, context.config.pairs, seed=seed)
    kept, held_out = selection.pairs, selection.held_out
    if context.config.pairs.mirror:
        kept, held_out = add_mirrors(kept, context), add_mirrors(held_out, context)
    return Selection(kept, held_out, drops + selection.drops)


def add_mirrors(pairs: Sequence[Pair], context: Context) -> list[Pair]:
    """The pairs and the mirror image of each, sorted by id.

    Where clips without a frame leave the frames as they were, or none of them, a pair has no mirror image.
    """
    frames = FrameStore(context.directory / "frames")
    clips = {row.id: row for row in RunStore(context.directory).read("clips", Clips)}
    mirrored = []
    for video_id, rows in groupby(sorted(pairs, key=lambda pair: pair.id), key=lambda pair: pair.video_id):
        clip_T = clip_of_frames(clips[video_id], frames.read_seconds(video_id))
        mirrored += [image for pair in rows if (image := mirror(pair, clip_T))]
    return sorted([*pairs, *mirrored], key=lambda pair: pair.id)


def mirror(pair: Pair, clip_T: NDArray[np.int64]) -> Pair | None:
    """The pair of the perturbed video, whose frames lie in the clips `clip_T`; None if nothing changes."""
    shown_T = arrange(clip_T, pair.order)
    if not len(shown_T) or np.array_equal(shown_T, np.arange(len(clip_T))):
        return None
    changes = {"chosen": pair.rejected, "rejected": pair.chosen, "frames": tuple(shown_T.tolist())}
    return pair.model_copy(update={"id": f"{pair.id}/mirror", **changes})


def pair_fault(pair: Pair, settings: PairsConfig) -> tuple[str, str] | None:
    """Why a pair teaches nothing or the wrong thing, as (reason, figure); None if it is good.

    Lengths count words.
    """
    chosen, rejected = num_words(pair)
    if pair.chosen == pair.rejected:
        return "same text", f"{chosen} words"
    if pair.chosen in pair.rejected:
        return "chosen is part of rejected", f"{chosen} of {rejected} words"
    # The distance costs time for long texts: only where it is asked for.
    if settings.min_difference:
        difference = word_difference(pair.chosen, pair.rejected)
        if difference < settings.min_difference:
            return "texts differ too little", f"{difference:.3f} under {settings.min_difference}"
    return _length_fault(pair, settings)


def _length_fault(pair: Pair, settings: PairsConfig) -> tuple[str, str] | None:
    chosen, rejected = num_words(pair)
    if pair.kind == "drop":
        if settings.length == "paper" and chosen <= rejected:
            return "chosen is not longer", f"{chosen} against {rejected} words"
        return None
    ratio = max(chosen, rejected) / max(1, min(chosen, rejected))
    if ratio > settings.max_length_ratio:
        return "lengths differ too much", f"ratio {ratio:.2f} over {settings.max_length_ratio}"
    return None


def word_difference(first: str, second: str) -> float:
    """Words to insert, delete or replace to turn one text into the other, as a share of the longer text.

    0 for the same words in the same order, 1 for texts that share nothing. Moved sentences count in full,
    which a comparison of word sets would not see.
    """
    words, others = first.split(), second.split()
    numbers = {word: number for number, word in enumerate({*words, *others})}
    other_numbers = np.array([numbers[word] for word in others], dtype=np.int64)
    places = np.arange(len(others) + 1)
    distances = places
    for count, word in enumerate(words, 1):
        replaced = distances[:-1] + (other_numbers != numbers[word])
        best = np.concatenate([[count], np.minimum(distances[1:] + 1, replaced)])
        # Insertions run along the row: the least of every earlier place plus the steps from there.
        distances = np.minimum.accumulate(best - places) + places
    return float(distances[-1]) / max(1, len(words), len(others))


def _unanswered(video_id: str, left: Unanswered) -> Skipped:
    pair_id = f"{video_id}/{left.kind}-{left.level:02d}"
    return Skipped(stage=STAGE, id=pair_id, reason="no rejected answer", detail=left.reason)


def _pair(row: Responses, response: Response, prompt: str, video: Path) -> Pair:
    perturbation = response.perturbation
    return Pair(
        id=f"{row.id}/{perturbation.kind}-{perturbation.level:02d}",
        video_id=row.id,
        video=str(video),
        prompt=prompt,
        chosen=row.chosen,
        rejected=response.text,
        kind=perturbation.kind,
        level=perturbation.level,
        order=perturbation.order,
        num_clips=row.num_clips,
    )
