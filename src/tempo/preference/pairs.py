"""Pairs: responses joined with their videos, filtered, and selected.

The filter looks at one pair at a time, the selection at all of them: duplicates, held-out videos, lengths. A
pair that is left out becomes a Skipped record with the reason. Random choices depend only on the run's seed
and the id of the pair or video.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempo.config import Config, PairsConfig
from tempo.core.hashing import derive_seed, hash_text, held_out_files
from tempo.core.records import Captions, Clips, Pair, Responses, Review, Skipped, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.prompts import describe_prompt
from tempo.preference.responses import arrange, clip_of_frames
from tempo.preference.verify import agreement_gain
from tempo.video.frames import FrameStore

#: The file with the pairs of held-out videos. Training uses neither these pairs nor instructions about them.
HELD_OUT = "held_out_pairs"

#: The file with the pairs that the user rejected: `tempo view` lists them, and the decision can be changed.
REJECTED = "rejected_pairs"

#: Length ratios are balanced in steps of about this relative size.
LENGTH_STEP = 0.02


@dataclass(frozen=True)
class Selection:
    """Pairs for training and pairs of held-out videos, both sorted by id, and those that were left out.

    `skipped` names all that were left out; `rejected` holds those among them that a person rejected.
    """

    pairs: list[Pair]
    held_out: list[Pair]
    skipped: list[Skipped]
    rejected: list[Pair] = field(default_factory=list)


def make_pairs(context: Context) -> Selection:
    """The pairs of a run, from its clips and responses."""
    store, seed, settings = RunStore(context.directory), context.config.run.seed, context.config.pairs
    videos, captions = store.rows("clips", Clips), store.rows("captions", Captions)
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    for row in store.rows("responses", Responses).values():
        video = videos[row.id]
        is_segment = file_of(row.id) != row.id
        for missing in row.unanswered:
            pair_id = f"{row.id}/{missing.kind}-{missing.level:02d}"
            skipped.append(skip(pair_id, "no rejected answer", missing.reason))
        for response in row.rejected:
            made = response.perturbation
            pair = Pair(
                **made.model_dump(exclude={"kept_share", "kendall_distance", "replaced"}),
                id=f"{row.id}/{made.kind}-{made.level:02d}",
                video_id=row.id,
                video=video.path,
                span=(video.start_seconds, video.start_seconds + video.duration_seconds)
                if is_segment
                else (),
                prompt=describe_prompt(row.id, context.config.responses.prompts, seed=seed),
                chosen=row.chosen,
                rejected=response.text,
            )
            texts = captions[row.id].captions if settings.verify else ()
            if fault := pair_fault(pair, settings, texts):
                skipped.append(skip(pair.id, *fault))
            else:
                pairs.append(pair)
    selected = select_pairs(pairs, context.config, store.reviews())
    kept, held_out = selected.pairs, selected.held_out
    if settings.mirror:
        frames = FrameStore(context.directory / "frames")
        kept, held_out = (add_mirrors(part, videos, frames) for part in (kept, held_out))
    return Selection(kept, held_out, skipped + selected.skipped, selected.rejected)


def pair_fault(pair: Pair, settings: PairsConfig, captions: Sequence[str] = ()) -> tuple[str, str] | None:
    """Why the filter rejects a pair: (reason, figure), or None if the pair is kept. Lengths are in words.

    `captions` are those of the clips, for `settings.verify`.
    """
    chosen, rejected = len(pair.chosen.split()), len(pair.rejected.split())
    ratio, is_drop = max(chosen, rejected) / max(1, min(chosen, rejected)), pair.kind == "drop"
    if pair.chosen == pair.rejected:
        return "same text", f"{chosen} words"
    if pair.chosen in pair.rejected:
        return "chosen is part of rejected", f"{chosen} of {rejected} words"
    if is_drop and settings.length == "paper" and chosen <= rejected:
        return "chosen is not longer", f"{chosen} against {rejected} words"
    if not is_drop and ratio > settings.max_length_ratio:
        return "lengths differ too much", f"ratio {ratio:.2f} over {settings.max_length_ratio}"
    gain = agreement_gain(pair.chosen, pair.rejected, captions) if settings.verify else 1.0
    if gain <= settings.verify_margin:
        return "chosen does not agree better", f"gain {gain:.2f}, not over {settings.verify_margin:g}"
    return None


def log_length_ratio(pair: Pair) -> float:
    """Logarithm of the ratio of chosen to rejected length in words; positive if the chosen text is longer."""
    return math.log(max(1, len(pair.chosen.split())) / max(1, len(pair.rejected.split())))


def select_pairs(pairs: Iterable[Pair], config: Config, reviews: Mapping[str, Review]) -> Selection:
    """The pairs that the settings and reviews keep, split by video into training and held-out pairs."""
    settings, share, seed = config.pairs, config.evaluation.held_out_share, config.run.seed
    kept, skipped = list(pairs), []
    if settings.drop_duplicates:
        # A pair that occurs at several levels is kept at the hardest of them.
        first: dict[tuple[str, ...], Pair] = {}
        for pair in sorted(kept, key=lambda pair: (pair.level, pair.id)):
            texts = (pair.video_id, pair.system, pair.prompt, pair.chosen, pair.rejected)
            known = first.setdefault(texts, pair)
            if known is not pair:
                skipped.append(skip(pair.id, "duplicate", f"same texts as {known.id}"))
        kept = list(first.values())
    rejected = [pair for pair in kept if decision_on(pair, reviews) == "reject"]
    skipped += [skip(pair.id, "rejected by a person", "see reviews.jsonl") for pair in rejected]
    kept = [pair for pair in kept if decision_on(pair, reviews) != "reject"]
    files = held_out_files((pair.video_id for pair in kept), share, seed=seed)
    held_out = [pair for pair in kept if file_of(pair.video_id) in files]
    training = [pair for pair in kept if file_of(pair.video_id) not in files]
    if settings.length == "fair":
        # Last, because any later choice would unbalance the lengths again.
        training, others = balance_lengths(training, alike=("kind", "level"), seed=seed)
        for pair in others:
            detail = f"no other {pair.kind} pair of level {pair.level} balances its lengths"
            skipped.append(skip(pair.id, "length gives it away", detail))
    training, held_out = (sorted(part, key=lambda pair: pair.id) for part in (training, held_out))
    return Selection(training, held_out, skipped, rejected)


def review_of(pair: Pair, decision: Literal["keep", "reject"]) -> Review:
    """The review of a pair; that of its mirror image is the same."""
    texts = hash_text(json.dumps(sorted((pair.chosen, pair.rejected))))[:16]
    return Review(id=pair.id.removesuffix("/mirror"), decision=decision, texts=texts)


def decision_on(pair: Pair, reviews: Mapping[str, Review]) -> str:
    """`keep` or `reject`; empty for a pair that was not reviewed with the texts that it has now."""
    review = reviews.get(pair.id.removesuffix("/mirror"))
    return review.decision if review and review == review_of(pair, review.decision) else ""


def balance_lengths(
    pairs: Iterable[Pair], *, alike: Sequence[str] = (), seed: int, step: float = LENGTH_STEP
) -> tuple[list[Pair], list[Pair]]:
    """The pairs among which the chosen text is longer as often as shorter, and the other pairs.

    This holds among pairs with the same values of the fields `alike` and the same ratio of lengths, in steps
    of `step`.
    """
    kept: list[Pair] = []
    left_out: list[Pair] = []
    cells: defaultdict[tuple[object, ...], tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for pair in sorted(pairs, key=lambda pair: derive_seed(seed, pair.id, "length")):
        ratio = log_length_ratio(pair)
        if ratio == 0:
            kept.append(pair)
        else:
            key = (*(getattr(pair, name) for name in alike), round(abs(ratio) / step))
            cells[key][ratio > 0].append(pair)
    for shorter, longer in cells.values():
        count = min(len(shorter), len(longer))
        kept += shorter[:count] + longer[:count]
        left_out += shorter[count:] + longer[count:]
    return kept, left_out


def add_mirrors(pairs: Sequence[Pair], videos: Mapping[str, Clips], frames: FrameStore) -> list[Pair]:
    """The pairs and their mirror images, sorted by id."""
    names = {pair.video_id for pair in pairs}
    clip_T = {name: clip_of_frames(videos[name], frames.read(name).seconds) for name in names}
    mirrored = [image for pair in pairs if (image := mirror(pair, clip_T[pair.video_id]))]
    return sorted([*pairs, *mirrored], key=lambda pair: pair.id)


def mirror(pair: Pair, clip_T: NDArray[np.int64]) -> Pair | None:
    """The pair for the perturbed video, with the two texts exchanged; `clip_T` [T] is each frame's clip.

    None if the perturbation does not change the frames, leaves no frames, or shows those of other videos.
    """
    shown_T = arrange(clip_T, pair.order)
    is_unchanged = np.array_equal(shown_T, np.arange(len(clip_T)))
    if not len(shown_T) or is_unchanged or pair.kind == "replace":
        return None
    changes = {"chosen": pair.rejected, "rejected": pair.chosen, "frames": tuple(shown_T.tolist())}
    return pair.model_copy(update={"id": f"{pair.id}/mirror", **changes})


def skip(pair_id: str, reason: str, detail: str) -> Skipped:
    """The record of a pair that is left out."""
    return Skipped(stage="pairs", id=pair_id, reason=reason, detail=detail)
