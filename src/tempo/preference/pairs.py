"""Responses to training pairs, through the pair filter (method.md, section 2)."""

from __future__ import annotations

from pathlib import Path

from tempo.preference.prompts import DESCRIBE
from tempo.records import Clips, Drop, Pair, Response, Responses
from tempo.sections import PairsConfig
from tempo.seeds import derive_seed
from tempo.stage import Context
from tempo.store import RunStore

STAGE = "pairs"


def make_pairs(context: Context) -> tuple[list[Pair], list[Drop]]:
    """All pairs of the run that pass the filter, and those that do not, with what stopped them."""
    store = RunStore(context.directory)
    paths = {row.id: row.path for row in store.read("clips", Clips)}
    pairs: list[Pair] = []
    drops: list[Drop] = []
    for row in store.read("responses", Responses):
        prompt = DESCRIBE[derive_seed(context.config.run.seed, row.id, "prompt") % len(DESCRIBE)]
        for response in row.rejected:
            pair = _pair(row, response, prompt, Path(paths[row.id]))
            fault = pair_fault(pair, context.config.pairs)
            if fault:
                drops.append(Drop(stage=STAGE, id=pair.id, reason=fault[0], detail=fault[1]))
            else:
                pairs.append(pair)
    return sorted(pairs, key=lambda pair: pair.id), drops


def pair_fault(pair: Pair, settings: PairsConfig) -> tuple[str, str] | None:
    """Why a pair teaches nothing or the wrong thing, as (reason, figure); None if it is good.

    Lengths count words.
    """
    chosen, rejected = len(pair.chosen.split()), len(pair.rejected.split())
    if pair.chosen == pair.rejected:
        return "same text", f"{chosen} words"
    if pair.chosen in pair.rejected:
        return "chosen is part of rejected", f"{chosen} of {rejected} words"
    if pair.kind == "drop":
        if settings.drop_chosen_longer and chosen <= rejected:
            return "chosen is not longer", f"{chosen} against {rejected} words"
        return None
    ratio = max(chosen, rejected) / max(1, min(chosen, rejected))
    if ratio > settings.max_length_ratio:
        return "lengths differ too much", f"ratio {ratio:.2f} over {settings.max_length_ratio}"
    return None


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
