"""Which videos a probe looks at: a file, a folder, or those of a run; and their frames.

T frames.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tempo.config import FramesConfig, PerturbationsConfig, VideosConfig, parse_config
from tempo.core.records import Clips, Pair, Skipped, Video
from tempo.core.seeds import derive_seed
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.preference.inputs import Footage, frames_by_clip
from tempo.video.find import find_videos, video_id
from tempo.video.frames import FrameStore, decode_jpegs, sample_video

#: Segments of a video whose clips are not known: as many as the easiest level tells apart.
NUM_SEGMENTS = max(PerturbationsConfig().levels)


@dataclass(frozen=True)
class VideoSet:
    """Videos by path, and how their frames are taken.

    Of a run: the frames in its `store` are used where they are there, and `clips`, by path, say where to cut.
    A decoder that gives no picture for `timeout_seconds` hangs.
    """

    paths: tuple[str, ...]
    frames: FramesConfig
    timeout_seconds: float = VideosConfig().timeout_seconds
    store: FrameStore | None = None
    clips: Mapping[str, Clips] = field(default_factory=dict)


class Seen(NamedTuple):
    """A video that could be read: its id, and its frames by clip or by segment."""

    id: str
    path: str
    footage: Footage


def open_videos(path: Path, frames: Mapping[str, Any]) -> VideoSet:
    """The videos of a file, a folder or a run; `frames` overrides values of the [frames] section.

    Of a run of the embedded world these are its held-out stories, of any other the videos of its held-out
    pairs, or all if it holds out none. Raises ValueError where there is no video, for a value that the
    section refuses, and for any value with a run, whose frames are taken already.
    """
    if (path / "config.toml").is_file():
        if frames:
            keys = ", ".join(f"frames.{key} = {value}" for key, value in frames.items())
            raise ValueError(f"{keys} would do nothing: the run {path} has frames of its own; remove it")
        return _of_run(path)
    settings = parse_config({"videos": {"paths": [str(path)]}, "frames": dict(frames)}).frames
    return VideoSet(tuple(map(str, find_videos([path], VideosConfig().extensions))), settings)


def choose_videos(paths: tuple[str, ...], num_videos: int, *, seed: int) -> list[str]:
    """`num_videos` of them at most, drawn by seed and file name: a folder that moved gives the same ones."""
    drawn = sorted(paths, key=lambda path: (derive_seed(seed, Path(path).name, "probe"), path))
    return sorted(drawn[:num_videos])


def read_video(videos: VideoSet, path: str) -> Seen | Skipped:
    """The frames of a video with two or more of them, else why it is left out (the drop's id is the path)."""
    try:
        seen = _read(videos, path)
    except SkipRecord as dropped:
        return left_out(path, dropped.reason, dropped.detail)
    except OSError as error:
        return left_out(path, "cannot be opened", str(error))
    except MemoryError:
        raise
    except Exception as error:
        # One video, or its file in the frame store, must not lose the figures of all others.
        return left_out(path, "cannot be processed", f"{type(error).__name__}: {error}")
    if (count := len(seen.footage.frames)) < 2:
        detail = f"{count} frame at frames.fps {videos.frames.fps:g}, order needs 2; a higher rate gives more"
        return left_out(path, "too few frames", detail)
    return seen


def left_out(path: str, reason: str, detail: str) -> Skipped:
    """Says why the video at `path` is not probed."""
    return Skipped(stage="probe", id=path, reason=reason, detail=detail)


def _of_run(directory: Path) -> VideoSet:
    # Only what the probe needs: a run of another version may have keys that this one does not know.
    plain = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    rows, store = RunStore(directory), FrameStore(directory / "frames")
    if "synthetic" in plain:
        paths = [str(path) for path in sorted((directory / "synthetic" / "held_out").glob("*.mp4"))]
        clips: dict[str, Clips] = {}
    else:
        clips = {row.path: row for row in rows.read("clips", Clips)}
        # A run on imported pairs cuts no clips.
        known = {path: row.id for path, row in clips.items()}
        known = known or {row.path: row.id for row in rows.read("videos", Video)}
        held_out = {pair.video_id for pair in rows.read("held_out_pairs", Pair)}
        paths = [path for path, name in known.items() if name in held_out] or list(known)
    if not paths:
        raise ValueError(f"the run {directory} has no videos yet; `tempo status {directory}` shows it")
    seconds = plain.get("videos", {}).get("timeout_seconds", VideosConfig().timeout_seconds)
    frames = FramesConfig.model_validate(plain.get("frames", {}))
    return VideoSet(tuple(paths), frames, seconds, store, clips)


def _read(videos: VideoSet, path: str) -> Seen:
    """Raises SkipRecord or OSError, and whatever a damaged file makes a library raise."""
    clips, store = videos.clips.get(path), videos.store
    if clips and store and store.has(clips.id):
        return Seen(clips.id, path, frames_by_clip(clips, store))
    name = video_id(path)
    if store and store.has(name):
        stored = store.read(name)
        frames, fps = stored.images, stored.fps
    else:
        sampled = sample_video(path, videos.frames, videos.timeout_seconds)
        frames, fps = decode_jpegs(sampled.jpegs), sampled.fps
    num_segments = min(len(frames), NUM_SEGMENTS)
    segment_T = np.arange(len(frames)) * num_segments // len(frames)
    return Seen(name, path, Footage(frames, segment_T, num_segments, fps))
