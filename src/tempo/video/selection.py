"""Which videos, or segments of videos, have enough events, and what their clips and key frames are.

Rules and constants are those of TEMPO (arXiv 2503.16929). Clips by change, which divide a shot at the moments
where the picture changes most, and segments are additions of ours. S: shots, D: features.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from tempo.config import ClipsConfig
from tempo.core.records import Clip, Moment, Shot
from tempo.engine.types import SkipRecord

#: Which shots are divided where the picture changes: none, those that are too long, or all.
Divided: TypeAlias = Literal["none", "long", "all"]

#: What each source tries, in order. The next one is tried only for a video with too few shots or clips.
ATTEMPTS: dict[str, tuple[Divided, ...]] = {"shots": ("none",), "change": ("all",), "auto": ("long", "all")}
TOO_FEW = ("too few shots", "too few clips")

#: Minimum length of a part of a shot. Shorter events can hardly be described.
MIN_SECONDS = 2.0

#: For each rule, the values of its keys with which it skips no video.
WITHOUT_RULE: dict[str, dict[str, Any]] = {
    "too few shots": {"min_shots": 1},
    "too many shots": {"max_shots": math.inf},
    "shot too long": {"max_shot_seconds": math.inf},
    "too long": {"max_minutes": math.inf},
    "too few clips": {"min_clips": 1},
    "group recurs too often": {"max_group_clips": math.inf, "group_divisor": 1},
    "nothing happens": {"min_change": 0.01},
}


class Piece(NamedTuple):
    """A shot, or a part of one, that becomes a clip or joins others; `number` is that of the shot."""

    shot: Shot
    number: int
    is_part: bool


def find_segments(
    shots: Sequence[Shot], config: ClipsConfig | None = None, *, features: ArrayLike | None = None
) -> dict[str, tuple[Clip, ...]]:
    """The clips of each segment of a video that the rules allow, by the suffix of its id: -1, -2 and so on.

    If the rules allow the whole video, it is the only segment, and its suffix is empty. Shots are grouped by
    `features` [S, D], or by their own descriptors; `config` is the section `[clips]`.
    Raises SkipRecord, a ValueError, with the rule that the whole video breaks, if there is no segment.
    """
    config = config or ClipsConfig()
    rows = np.array([shot.descriptor for shot in shots] if features is None else features, np.float64)
    for divided in ATTEMPTS[config.source]:
        pieces = cut_pieces(shots, config, divided)
        try:
            return {"": _make_clips(pieces, rows, config, divided)}
        except SkipRecord as error:
            skip = error
        if config.segments and (found := list(_find_windows(pieces, rows, config, divided))):
            return {f"-{number}": clips for number, clips in enumerate(found, 1)}
        if skip.reason not in TOO_FEW:
            break
    changes = [moment.change for shot in shots for moment in shot.moments]
    if config.source != "shots" and changes and max(changes) < config.min_change:
        detail = f"the picture changes by {max(changes):.1f}, min_change is {config.min_change:g}"
        raise SkipRecord("nothing happens", detail)
    raise skip


def find_clips(
    shots: Sequence[Shot], config: ClipsConfig | None = None, *, features: ArrayLike | None = None
) -> tuple[Clip, ...]:
    """The clips of a whole video in time order, with two key frames each; arguments as in `find_segments`.

    Raises SkipRecord, a ValueError, if the video is outside the limits of the section.
    """
    config = (config or ClipsConfig()).model_copy(update={"segments": False})
    return find_segments(shots, config, features=features)[""]


def is_only_reason(skip: SkipRecord, shots: Sequence[Shot], config: ClipsConfig) -> bool:
    """Whether a video would be kept without the rule that skipped it. Shots are compared by descriptors."""
    if skip.reason not in WITHOUT_RULE:
        return False
    try:
        return bool(find_segments(shots, config.model_copy(update=WITHOUT_RULE[skip.reason])))
    except SkipRecord:
        return False


def cut_pieces(shots: Sequence[Shot], config: ClipsConfig, divided: Divided) -> list[Piece]:
    """The shots in time order, with parts in place of those that are divided."""
    # A shot that is too long is divided into at least two parts, a video with too few shots into `min_clips`.
    min_parts = math.ceil(config.min_clips / max(1, len(shots))) if divided == "all" else 2
    pieces = []
    for index, shot in enumerate(shots):
        is_divided = divided == "all" or (divided == "long" and shot.seconds > config.max_shot_seconds)
        parts = divide(shot, config, min_parts=min_parts) if is_divided else [shot]
        pieces += [Piece(part, index, part.num_frames < shot.num_frames) for part in parts]
    return pieces


def divide(shot: Shot, config: ClipsConfig, *, min_parts: int) -> list[Shot]:
    """The parts of a shot, each at least 2 seconds long; the largest changes are considered first.

    The shot is divided at all changes above their mean, and at smaller ones if there are fewer than
    `min_parts` parts or if a part is longer than `max_shot_seconds`, but never at one below `min_change`.
    """
    ends = (shot.start_frame, shot.start_seconds), (shot.end_frame, shot.end_seconds)
    bounds = [Moment(start_frame=frame, start_seconds=seconds, change=0.0) for frame, seconds in ends]
    mean = fmean([moment.change for moment in shot.moments] or [0.0])
    moments = [moment for moment in shot.moments if moment.change >= config.min_change]
    for moment in sorted(moments, key=lambda moment: moment.change, reverse=True):
        at = bisect(bounds, moment.start_frame, key=lambda bound: bound.start_frame)
        before, after = (bound.start_seconds for bound in bounds[at - 1 : at + 1])
        is_needed = len(bounds) <= min_parts or after - before > config.max_shot_seconds
        is_apart = min(moment.start_seconds - before, after - moment.start_seconds) >= MIN_SECONDS
        if is_apart and (is_needed or moment.change > mean):
            bounds.insert(at, moment)
    return [_part(shot, start, end) for start, end in itertools.pairwise(bounds)]


def _part(shot: Shot, start: Moment, end: Moment) -> Shot:
    rows = zip(shot.candidates, shot.sharpness, strict=True)
    inside = [row for row in rows if start.start_frame <= row[0] < end.start_frame]
    changed = {
        "start_frame": start.start_frame,
        "end_frame": end.start_frame,
        "start_seconds": start.start_seconds,
        "end_seconds": end.start_seconds,
        "candidates": tuple(number for number, _ in inside),
        "sharpness": tuple(value for _, value in inside),
        "moments": (),
    }
    return shot.model_copy(update=changed)


def _find_windows(
    pieces: Sequence[Piece], rows: np.ndarray, config: ClipsConfig, divided: Divided
) -> Iterator[tuple[Clip, ...]]:
    """The longest sequence of pieces that the rules allow from the start, then from its end, and so on."""
    start = 0
    while start < len(pieces):
        for end in range(min(len(pieces), start + config.max_shots), start + 1, -1):
            try:
                yield _make_clips(pieces[start:end], rows, config, divided)
            except SkipRecord:
                continue
            start = end
            break
        else:
            start += 1


def _make_clips(
    pieces: Sequence[Piece], rows: np.ndarray, config: ClipsConfig, divided: Divided
) -> tuple[Clip, ...]:
    """The clips of a sequence of pieces; raises SkipRecord with the first rule that it breaks."""
    _check_pieces(pieces, config, divided)
    groups = _group_pieces(pieces, rows, config.similarity)
    runs = [list(run) for _, run in itertools.groupby(range(len(groups)), groups.__getitem__)]
    if len(runs) < config.min_clips:
        least = f" of at least {MIN_SECONDS:g} seconds" if divided == "all" else ""
        raise SkipRecord("too few clips", f"{len(runs)} clips{least}, min_clips is {config.min_clips}")
    group, count = Counter(groups[run[0]] for run in runs).most_common(1)[0]
    limit = min(config.max_group_clips, max(1, len(runs) // config.group_divisor))
    if count > limit:
        detail = f"group {group} has {count} of {len(runs)} clips, at most {limit} are allowed"
        raise SkipRecord("group recurs too often", detail)
    return tuple(_make_clip(pieces[run[0] : run[-1] + 1], groups[run[0]]) for run in runs)


def _check_pieces(pieces: Sequence[Piece], config: ClipsConfig, divided: Divided) -> None:
    num_shots = len(pieces)
    # If all shots are divided, only the number of clips counts.
    if not pieces or (divided != "all" and num_shots < config.min_shots):
        raise SkipRecord("too few shots", f"{num_shots} usable shots, min_shots is {config.min_shots}")
    if num_shots > config.max_shots:
        raise SkipRecord("too many shots", f"{num_shots} usable shots, max_shots is {config.max_shots}")
    longest = max(piece.shot.seconds for piece in pieces)
    # A long piece that could not be divided is one in which nothing happens; it is kept.
    if divided == "none" and longest > config.max_shot_seconds:
        detail = f"a shot of {longest:.2f} seconds, max_shot_seconds is {config.max_shot_seconds:g}"
        raise SkipRecord("shot too long", detail)
    minutes = (pieces[-1].shot.end_seconds - pieces[0].shot.start_seconds) / 60
    if minutes > config.max_minutes:
        raise SkipRecord("too long", f"{minutes:.1f} minutes, max_minutes is {config.max_minutes:g}")


def _group_pieces(pieces: Sequence[Piece], rows: np.ndarray, similarity: float) -> list[int]:
    """The group of each piece. A part of a shot is a group of its own, because the picture changed there."""
    compared = [piece.number for piece in pieces if not piece.is_part]
    numbers, others = iter(group_shots(rows[compared], similarity)), itertools.count(len(pieces))
    return _renumber([next(others if piece.is_part else numbers) for piece in pieces])


def _renumber(labels: Sequence[int]) -> list[int]:
    """Labels as numbers from 0, in order of appearance."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def _make_clip(pieces: Sequence[Piece], group: int) -> Clip:
    first, last = pieces[0], pieces[-1]
    start, end = first.shot.start_frame, last.shot.end_frame
    rows = [row for piece in pieces for row in zip(piece.shot.candidates, piece.shot.sharpness, strict=True)]
    key_frames = choose_key_frames(end - start, {number - start: sharpness for number, sharpness in rows})
    return Clip(
        group=group,
        first_shot=first.number,
        num_shots=last.number - first.number + 1,
        start_seconds=first.shot.start_seconds,
        end_seconds=last.shot.end_seconds,
        key_frames=tuple(start + number for number in key_frames),
    )


def group_shots(descriptors: ArrayLike, similarity: float) -> list[int]:
    """The group number of each shot, given descriptors [S, D]; groups are numbered in order of appearance.

    The two most similar groups are merged as long as their cosine similarity is above `similarity`. The
    merged row of the similarity matrix is the mean of the two rows, regardless of group sizes (WPGMA).
    """
    rows = np.array(descriptors, np.float64)
    if len(rows) < 2:
        return [0] * len(rows)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    # Rounded, so that the order of ties does not depend on the machine's BLAS.
    distance_SS = np.round(1 - rows @ rows.T, 6)
    np.fill_diagonal(distance_SS, 0)
    tree = linkage(squareform(np.maximum(distance_SS, 0), checks=False), method="weighted")
    # Groups whose similarity equals the limit are not merged.
    limit = np.nextafter(round(1 - similarity, 6), 0)
    return _renumber(fcluster(tree, limit, criterion="distance").tolist())


def choose_key_frames(num_frames: int, sharpness: Mapping[int, float]) -> tuple[int, int]:
    """The two key frames of a clip, in order; the same frame twice only if `sharpness` has a single frame.

    `sharpness` maps the candidates, in order, to their sharpness. Of those within (num_frames / 3) // 2
    frames of 1/3 and 2/3 of the clip, the one with the highest product of sharpness and a cosine window is
    taken; if there are no candidates in that range, the nearest one.
    """
    third = num_frames // 3
    first = _best_frame(sharpness, third, third // 2)
    later = {number: value for number, value in sharpness.items() if number > first} or {first: 0.0}
    return first, _best_frame(later, 2 * num_frames // 3, third // 2)


def _best_frame(sharpness: Mapping[int, float], centre: int, radius: int) -> int:
    """The best frame around `centre`; the earliest one if there is a tie."""
    scores = {
        number: value * math.cos(math.pi / 2 * (number - centre) / (radius + 1))
        for number, value in sharpness.items()
        if abs(number - centre) <= radius
    }
    if scores:
        return max(scores, key=scores.__getitem__)
    return min(sharpness, key=lambda number: abs(number - centre))
