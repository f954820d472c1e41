"""The probe: does a model notice the order of time? Any videos will do, without labels.

The model describes a video; then its description is scored again, given the video as filmed and perturbed.
For a model that uses the order of time, the description is likelier with the clean video; for one that
ignores the video, or its order, both are equally likely. A probe measures how much a model notices, not
whether its descriptions are right.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempo.config import FramesConfig, PerturbationsConfig, SamplingConfig, VideosConfig, parse_config
from tempo.core.hashing import derive_seed
from tempo.core.records import Clips, Pair, Video
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.evaluation.probe_report import Comparison, LeftOut, ProbeKind, ProbeReport, report_comparisons
from tempo.model.answers import Request
from tempo.model.chat import Prefix, VideoLM, log_probs
from tempo.model.generate import generate
from tempo.preference.perturbations import perturb_all
from tempo.preference.prompts import DESCRIBE
from tempo.preference.responses import Footage, frame_requests, frames_by_clip
from tempo.video.find import find_videos, video_id
from tempo.video.frames import FrameStore, sample_video

#: Videos whose frames are in memory at the same time, and which are described in one batch.
BATCH_SIZE = 8

#: Segments of a video whose clips are not known: as many as the easiest level distinguishes.
NUM_SEGMENTS = max(PerturbationsConfig().levels)


@dataclass(frozen=True)
class VideoSet:
    """Paths of videos, and how their frames are sampled.

    For a run, frames come from its `store` where they are there, and `clips` (by path) define the segments.
    """

    paths: tuple[str, ...]
    frames: FramesConfig
    timeout_seconds: float = VideosConfig().timeout_seconds
    store: FrameStore | None = None
    clips: Mapping[str, Clips] = field(default_factory=dict)


def probe(
    model: VideoLM,
    videos: str | Path | VideoSet,
    *,
    prompt: str = DESCRIBE[1],
    num_videos: int = 100,
    max_new_tokens: int = 512,
    texts: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeReport:
    """How much a model notices when videos are reversed, shuffled, cut or frozen.

    `videos` is a video, a folder, a run directory, or what `open_videos` returned; at most `num_videos` are
    drawn. `texts` (by video id) replace the model's own descriptions, which have at most `max_new_tokens`.
    Two models with the same arguments see the same videos, perturbed alike. `progress` gets the numbers of
    videos done and in total. Raises ValueError if there is no video, or none that can be probed.
    """
    source = videos if isinstance(videos, VideoSet) else open_videos(Path(videos))
    paths = choose_videos(source.paths, num_videos, seed=seed)
    comparisons: list[Comparison] = []
    descriptions: dict[str, str] = {}
    left_out: list[LeftOut] = []
    seen: set[str] = set()
    for start in range(0, len(paths), BATCH_SIZE):
        batch = _read_batch(source, paths[start : start + BATCH_SIZE], seen, left_out)
        if texts is None:
            found = _describe(model, batch, prompt, max_new_tokens)
        else:
            missing = SkipRecord("no text given", "there is no text with the id of this video")
            found = [texts.get(name) or missing for name, _ in batch.values()]
        for (path, (name, footage)), text in zip(batch.items(), found, strict=True):
            if isinstance(text, SkipRecord):
                left_out.append(LeftOut(id=path, reason=text.reason, detail=text.detail))
                continue
            descriptions[name] = text
            comparisons += compare(model, footage, text, video=name, prompt=prompt, seed=seed)
        progress(min(start + BATCH_SIZE, len(paths)), len(paths))
    left_out.sort(key=lambda row: row.id)
    if not comparisons:
        first = left_out[0]
        raise ValueError(
            f"none of {len(paths)} videos can be probed; {first.id}: {first.reason}: {first.detail}"
        )
    return report_comparisons(comparisons, seed=seed, left_out=left_out, descriptions=descriptions)


def compare(
    model: VideoLM, footage: Footage, text: str, *, video: str, prompt: str, seed: int
) -> list[Comparison]:
    """One comparison of `text` per perturbation of the footage that differs from the clean one."""
    logp_clean = _log_probs(model, Request(prompt, 0, footage.frames, footage.fps), text)
    return [
        Comparison(
            video=video,
            kind=kind,
            level=level,
            num_tokens=len(logp_clean),
            clean=_total(logp_clean),
            perturbed=_total(_log_probs(model, request, text)),
        )
        for kind, level, request in perturbed_views(
            footage, prompt=prompt, seed=derive_seed(seed, video, "probe")
        )
    ]


def perturbed_views(footage: Footage, *, prompt: str, seed: int) -> Iterator[tuple[ProbeKind, int, Request]]:
    """Kind, level and request: reversed, shuffled and dropped at every distinct level, and frozen."""
    ask = frame_requests(footage, prompt=prompt)
    for made in perturb_all(footage.num_clips, PerturbationsConfig(), seed=seed):
        # None if clips without a frame leave the frames in their order.
        if request := ask(made.order, 0):
            yield made.kind, made.level, request
    middle_T = np.full(len(footage.frames), len(footage.frames) // 2)
    yield "frozen", 0, Request(prompt, 0, footage.frames[middle_T], footage.fps)


def open_videos(path: Path, frames: Mapping[str, Any] | None = None) -> VideoSet:
    """The videos of a file, a folder or a run directory; `frames` sets values of the [frames] section.

    For a run of the embedded world these are its held-out stories, for any other run the videos of its
    held-out pairs, or all if there are none. Raises ValueError if there is no video, for a value that the
    section refuses, and for any value with a run, whose frames are stored already.
    """
    if (path / "config.toml").is_file():
        if frames:
            keys = ", ".join(f"frames.{key}" for key in frames)
            raise ValueError(f"{keys} cannot be set for {path}: frames of a run are sampled already")
        return _open_run(path)
    settings = parse_config({"videos": {"paths": [str(path)]}, "frames": dict(frames or {})}).frames
    return VideoSet(tuple(map(str, find_videos([path], VideosConfig().extensions))), settings)


def choose_videos(paths: tuple[str, ...], num_videos: int, *, seed: int) -> list[str]:
    """At most `num_videos` of them, drawn by seed and file name: a folder that was moved gives the same."""
    drawn = sorted(paths, key=lambda path: (derive_seed(seed, Path(path).name, "probe"), path))
    return sorted(drawn[:num_videos])


def read_video(videos: VideoSet, path: str) -> tuple[str, Footage]:
    """The id of a video, and its frames (two or more) by clip or by segment; raises SkipRecord."""
    try:
        name, footage = _read(videos, path)
    except (SkipRecord, MemoryError):
        raise
    except OSError as error:
        raise SkipRecord("cannot be opened", str(error)) from None
    except Exception as error:
        # One damaged file must not lose the figures of all other videos.
        raise SkipRecord("cannot be processed", f"{type(error).__name__}: {error}") from None
    if (count := len(footage.frames)) < 2:
        raise SkipRecord(
            "too few frames", f"{count} at frames.fps {videos.frames.fps:g}; order needs 2, set a higher rate"
        )
    return name, footage


def _open_run(directory: Path) -> VideoSet:
    # Not the whole configuration: a run of another version may have keys that this one does not know.
    plain = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    rows = RunStore(directory)
    clips: dict[str, Clips] = {}
    if "synthetic" in plain:
        paths = [str(path) for path in sorted((directory / "synthetic" / "held_out").glob("*.mp4"))]
    else:
        clips = {row.path: row for row in rows.read("clips", Clips)}
        # A run with imported pairs has no clips.
        ids = {path: row.id for path, row in clips.items()}
        ids = ids or {row.path: row.id for row in rows.read("videos", Video)}
        held_out = {pair.video_id for pair in rows.read("held_out_pairs", Pair)}
        paths = [path for path, name in ids.items() if name in held_out] or list(ids)
    if not paths:
        raise ValueError(f"the run {directory} has no videos yet; `tempo status {directory}` shows its state")
    seconds = plain.get("videos", {}).get("timeout_seconds", VideosConfig().timeout_seconds)
    frames = FramesConfig.model_validate(plain.get("frames", {}))
    return VideoSet(tuple(paths), frames, seconds, FrameStore(directory / "frames"), clips)


def _read(videos: VideoSet, path: str) -> tuple[str, Footage]:
    """Raises SkipRecord or OSError, and whatever libraries raise for a damaged file."""
    clips, store = videos.clips.get(path), videos.store
    if clips and store and store.has(clips.id):
        return clips.id, frames_by_clip(clips, store)
    name = video_id(path)
    if store and store.has(name):
        stored = store.read(name)
        frames, fps = stored.images, stored.fps
    else:
        sampled = sample_video(path, videos.frames, videos.timeout_seconds)
        frames, fps = sampled.images, sampled.fps
    num_segments = min(len(frames), NUM_SEGMENTS)
    segment_T = np.arange(len(frames)) * num_segments // len(frames)
    return name, Footage(frames, segment_T, num_segments, fps)


def _read_batch(
    videos: VideoSet, paths: Sequence[str], seen: set[str], left_out: list[LeftOut]
) -> dict[str, tuple[str, Footage]]:
    """Id and footage by path of the videos that can be read and were not seen before; extends the others."""
    batch = {}
    for path in paths:
        try:
            name, footage = read_video(videos, path)
            if name in seen:
                raise SkipRecord("duplicate", f"same content as another video, {name}")
        except SkipRecord as skip:
            left_out.append(LeftOut(id=path, reason=skip.reason, detail=skip.detail))
        else:
            seen.add(name)
            batch[path] = name, footage
    return batch


def _describe(
    model: VideoLM, batch: Mapping[str, tuple[str, Footage]], prompt: str, max_new_tokens: int
) -> list[str | SkipRecord]:
    """The model's own greedy description of each video, or why there is none."""
    requests = [Request(prompt, 0, footage.frames, footage.fps) for _, footage in batch.values()]
    greedy = SamplingConfig(temperature=0, batch_size=BATCH_SIZE)
    answers = generate(model, requests, sampling=greedy, max_new_tokens=max_new_tokens)
    texts: list[str | SkipRecord] = []
    for answer in answers:
        # A cut answer is not scored: the end of turn after it is not the model's own.
        fault = "the answer is empty" if answer.is_whole else "cut; a larger --max-new-tokens may help"
        is_usable = answer.text and answer.is_whole
        texts.append(answer.text if is_usable else SkipRecord("no description", fault))
    return texts


def _log_probs(model: VideoLM, request: Request, text: str) -> Tensor:
    """Log-probabilities [num_tokens] of the text after video and prompt."""
    prefix = Prefix(request.frames, request.prompt, fps=request.fps)
    with torch.no_grad():
        return log_probs(model, prefix, [text], reduction="none")[0]


def _total(logp: Tensor) -> float:
    """The sum, rounded so that a difference within the error of float arithmetic is a tie."""
    return round(float(logp.double().sum()), 4)
