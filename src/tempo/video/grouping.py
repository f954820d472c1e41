"""Shots to clips: the rules by which a video is taken, cut into clips, and given two key frames for each.

Rules and constants: TEMPO (arXiv 2503.16929) as gathered in method.md, section 2. S shots.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tempo.config import ClipsConfig
from tempo.core.records import Clip, Shot
from tempo.engine.types import SkipRecord
from tempo.video.key_frames import choose_key_frames


def find_clips(
    shots: Sequence[Shot], config: ClipsConfig, features: ArrayLike | None = None
) -> tuple[Clip, ...]:
    """The clips of a video in time order; raises SkipRecord where the video is not rich in time.

    Shots are grouped by `features` [S, D], or by their own descriptors.
    """
    check_shots(shots, config)
    rows = [shot.descriptor for shot in shots] if features is None else features
    groups = group_shots(rows, config.similarity)
    runs = [(group, list(run)) for group, run in itertools.groupby(range(len(groups)), groups.__getitem__)]
    _check_groups([group for group, _ in runs], config)
    return tuple(_clip(shots, group, run) for group, run in runs)


def group_shots(descriptors: ArrayLike, similarity: float) -> list[int]:
    """For each shot, of descriptors [S, D], the number of its group, groups numbered as they first appear.

    Agglomerative: the two most similar groups are merged while their cosine is above `similarity`; the merged
    row of the similarity matrix is the plain mean of the two (WPGMA, whatever the sizes of the groups).
    """
    rows = np.array(descriptors, np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    # Rounded, so that which of two equal pairs comes first does not depend on the machine's BLAS.
    cosine_SS = np.round(rows @ rows.T, 6)
    np.fill_diagonal(cosine_SS, -np.inf)
    members = list(range(len(rows)))
    while True:
        kept, merged = sorted(map(int, np.unravel_index(np.argmax(cosine_SS), cosine_SS.shape)))
        if not cosine_SS[kept, merged] > similarity:
            break
        cosine_SS[kept] = cosine_SS[:, kept] = (cosine_SS[kept] + cosine_SS[merged]) / 2
        cosine_SS[merged] = cosine_SS[:, merged] = -np.inf
        cosine_SS[kept, kept] = -np.inf
        members = [kept if member == merged else member for member in members]
    numbers = {member: number for number, member in enumerate(dict.fromkeys(members))}
    return [numbers[member] for member in members]


def _clip(shots: Sequence[Shot], group: int, run: Sequence[int]) -> Clip:
    """The clip of the shots numbered `run`."""
    first, last = shots[run[0]], shots[run[-1]]
    candidates = {
        number - first.start_frame: sharpness
        for index in run
        for number, sharpness in zip(shots[index].candidates, shots[index].sharpness, strict=True)
    }
    key_frames = choose_key_frames(last.end_frame - first.start_frame, candidates)
    return Clip(
        group=group,
        first_shot=run[0],
        num_shots=len(run),
        start_seconds=first.start_seconds,
        end_seconds=last.end_seconds,
        key_frames=tuple(first.start_frame + index for index in key_frames),
    )


def check_shots(shots: Sequence[Shot], config: ClipsConfig) -> None:
    """Video filter 1; raises SkipRecord."""
    if len(shots) < config.min_shots:
        raise SkipRecord("too few shots", f"{len(shots)} usable shots, min_shots is {config.min_shots}")
    if len(shots) > config.max_shots:
        raise SkipRecord("too many shots", f"{len(shots)} usable shots, max_shots is {config.max_shots}")
    longest = max(shot.seconds for shot in shots)
    if longest > config.max_shot_seconds:
        limit = f"max_shot_seconds is {config.max_shot_seconds:g}"
        raise SkipRecord("shot too long", f"a shot of {longest:.2f} seconds, {limit}")


def _check_groups(clip_groups: Sequence[int], config: ClipsConfig) -> None:
    """Video filter 2, on the group of each clip."""
    num_clips = len(clip_groups)
    if num_clips < config.min_clips:
        raise SkipRecord("too few clips", f"{num_clips} clips, min_clips is {config.min_clips}")
    group, count = Counter(clip_groups).most_common(1)[0]
    limit = min(config.max_group_clips, max(1, num_clips // config.group_share))
    if count > limit:
        raise SkipRecord(
            "group comes back too often",
            f"group {group} is {count} of {num_clips} clips, at most {limit} may be",
        )
