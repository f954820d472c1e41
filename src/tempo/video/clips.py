"""The third stage: videos rich in time, their clips, and two key frames for each clip.

Rules and constants: TEMPO (arXiv 2503.16929) as gathered in method.md, section 2. S shots.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tempo.records import Clip, Clips, Shot, Shots
from tempo.sections import ClipsConfig
from tempo.stage import Context, Dropped, Worker
from tempo.video.frames import FrameStore
from tempo.video.sampling import fetch_frames
from tempo.video.videos import check_unchanged, per_record


def make_worker(context: Context) -> Worker:
    """A worker that maps Shots to Clips, adds their key frames to the frame store, or gives a Drop."""
    store = FrameStore(context.directory / "frames")
    config = context.config

    def cut(video: Shots) -> Clips:
        clips = find_clips(video, config.clips)
        check_unchanged(video.path, video.id)
        key_frames = [frame for clip in clips for frame in clip.key_frames]
        store.write_key_frames(video.id, fetch_frames(video.path, key_frames, config.frames))
        return Clips(id=video.id, path=video.path, duration_seconds=video.duration_seconds, clips=clips)

    return per_record("clips", cut)


def find_clips(video: Shots, config: ClipsConfig) -> tuple[Clip, ...]:
    """The clips of a video in time order; raises Dropped where the video is not rich in time."""
    _check_shots(video.shots, config)
    groups = group_shots([shot.descriptor for shot in video.shots], config.similarity)
    runs = [(group, list(run)) for group, run in itertools.groupby(range(len(groups)), groups.__getitem__)]
    _check_groups([group for group, _ in runs], config)
    return tuple(_clip(video, group, run) for group, run in runs)


def group_shots(descriptors: Sequence[Sequence[float]], similarity: float) -> list[int]:
    """For each shot the number of its group, groups numbered as they first appear.

    Agglomerative: the two most similar groups are merged while their cosine is above `similarity`; the merged
    row of the similarity matrix is the plain mean of the two (WPGMA, whatever the sizes of the groups).
    """
    rows = np.asarray(descriptors, np.float64)
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


def choose_key_frames(sharpness: Sequence[float]) -> tuple[int, int]:
    """Two frame numbers within a clip of these frames, earliest first; different if there are two.

    Around 1/3 and 2/3 of the clip, (length / 3) // 2 frames to either side, the best product of sharpness
    and a cosine window that falls off from the centre.
    """
    third = len(sharpness) // 3
    radius = third // 2
    first = _best(sharpness, third, radius, 0)
    return first, _best(sharpness, 2 * len(sharpness) // 3, radius, first + 1)


def _best(sharpness: Sequence[float], centre: int, radius: int, at_least: int) -> int:
    """The best frame around `centre`, the earliest of equals; from `at_least` on if the clip has it."""
    last = len(sharpness) - 1
    lowest = min(max(centre - radius, at_least), last)
    highest = max(min(centre + radius, last), lowest)
    window = {
        index: sharpness[index] * math.cos(math.pi / 2 * (index - centre) / (radius + 1))
        for index in range(lowest, highest + 1)
    }
    return max(window, key=window.__getitem__)


def _clip(video: Shots, group: int, run: Sequence[int]) -> Clip:
    """The clip of the shots numbered `run`."""
    first, last = video.shots[run[0]], video.shots[run[-1]]
    key_frames = choose_key_frames(video.sharpness[first.start_frame : last.end_frame])
    return Clip(
        group=group,
        first_shot=run[0],
        num_shots=len(run),
        start_seconds=first.start_seconds,
        end_seconds=last.end_seconds,
        key_frames=tuple(first.start_frame + index for index in key_frames),
    )


def _check_shots(shots: Sequence[Shot], config: ClipsConfig) -> None:
    """Video filter 1."""
    if len(shots) < config.min_shots:
        raise Dropped("too few shots", f"{len(shots)} usable shots, min_shots is {config.min_shots}")
    if len(shots) > config.max_shots:
        raise Dropped("too many shots", f"{len(shots)} usable shots, max_shots is {config.max_shots}")
    longest = max(shot.seconds for shot in shots)
    if longest > config.max_shot_seconds:
        limit = f"max_shot_seconds is {config.max_shot_seconds:g}"
        raise Dropped("shot too long", f"a shot of {longest:.2f} seconds, {limit}")


def _check_groups(clip_groups: Sequence[int], config: ClipsConfig) -> None:
    """Video filter 2, on the group of each clip."""
    num_clips = len(clip_groups)
    if num_clips < config.min_clips:
        raise Dropped("too few clips", f"{num_clips} clips, min_clips is {config.min_clips}")
    group, count = Counter(clip_groups).most_common(1)[0]
    limit = min(config.max_group_clips, num_clips // config.group_share)
    if count > limit:
        raise Dropped(
            "group comes back too often",
            f"group {group} is {count} of {num_clips} clips, at most {limit} may be",
        )
