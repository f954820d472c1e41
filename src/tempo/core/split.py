"""Which videos are held out: decided by the hash of a file, so that a new video does not move others."""

from __future__ import annotations

from collections.abc import Iterable

from tempo.core.hashing import derive_seed
from tempo.core.records import file_of


def held_out_draw(video_id: str, *, seed: int) -> float:
    """A number from 0 to 1 for the file of a video, which is held out if it is below the share."""
    return derive_seed(seed, file_of(video_id), "held out") / 2**63


def held_out_files(video_ids: Iterable[str], share: float, *, seed: int) -> set[str]:
    """The files of these videos that are held out: about `share` of them.

    Of two or more files, at least one is held out and at least one is not; a single file is not held out.
    """
    draws = sorted((held_out_draw(name, seed=seed), name) for name in {*map(file_of, video_ids)})
    count = min(max(1, sum(draw < share for draw, _ in draws)), len(draws) - 1)
    return {name for _, name in draws[:count]} if share and draws else set()
