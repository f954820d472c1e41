"""The stage `clips`: the clips of each video or segment, with their frames and two key frames per clip."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.config import Config
from tempo.core.records import Clip, Clips, Shots
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.decode import Image, Scaler, decode, decode_at, fit_size
from tempo.video.faults import per_record, watched
from tempo.video.find import check_unchanged
from tempo.video.frames import FrameStore, encode_jpeg, sample_frames
from tempo.video.selection import find_segments, is_only_reason

#: Maps S images to features [S, D].
Embed: TypeAlias = Callable[[Sequence[Image]], NDArray[np.float64]]

#: Shots whose middle frames are in memory at a time.
BATCH_SHOTS = 32


def make_worker(context: Context) -> Worker:
    """A worker that maps Shots to Clips, a list of Clips with the segments of a video, or Skipped.

    It adds key frames, and the frames of segments, to the frame store. Raises ValueError if `clips.features`
    names a checkpoint that cannot be used.
    """
    store, config = FrameStore(context.directory / "frames"), context.config
    checkpoint = config.clips.features
    embed = None if checkpoint == "embedded" else load_embedder(checkpoint, config.model.device)

    def cut(video: Shots) -> Clips | list[Clips]:
        try:
            segments = _select(video, config, embed)
        except SkipRecord as skip:
            skip.is_only_reason = is_only_reason(skip, video.shots, config.clips)
            raise
        check_unchanged(video.path, video.id)
        rows = [_make_row(video, suffix, clips) for suffix, clips in segments.items()]
        if "" not in segments:
            spans = {video.id + suffix: _span(clips) for suffix, clips in segments.items()}
            _store_spans(video, spans, store, config)
        for row in rows:
            images = _read_images(video, [number for clip in row.clips for number in clip.key_frames], config)
            store.write_key_frames(row.id, [encode_jpeg(one, config.frames.jpeg_quality) for one in images])
        # The first segment is written last: once it is on disk, the others are too.
        return rows[0] if "" in segments else rows[::-1]

    return per_record("clips", cut)


def _select(video: Shots, config: Config, embed: Embed | None) -> dict[str, tuple[Clip, ...]]:
    if embed is None:
        return find_segments(video.shots, config.clips)
    # Most videos are skipped. Only those that the rules would allow if no two shots were alike are embedded.
    find_segments(video.shots, config.clips, features=np.eye(len(video.shots)))
    check_unchanged(video.path, video.id)
    middles = [(shot.start_frame + shot.end_frame) // 2 for shot in video.shots]
    parts = [middles[start : start + BATCH_SHOTS] for start in range(0, len(middles), BATCH_SHOTS)]
    features = np.concatenate([embed(_read_images(video, part, config)) for part in parts])
    return find_segments(video.shots, config.clips, features=features)


def _make_row(video: Shots, suffix: str, clips: Sequence[Clip]) -> Clips:
    """The record of a video, or with a suffix that of a segment, whose times count from its own start."""
    start, end = _span(clips) if suffix else (0.0, video.duration_seconds)
    moved = [
        clip.model_copy(
            update={"start_seconds": clip.start_seconds - start, "end_seconds": clip.end_seconds - start}
        )
        for clip in clips
    ]
    return Clips(
        id=video.id + suffix,
        path=video.path,
        duration_seconds=end - start,
        clips=tuple(moved),
        start_seconds=start,
    )


def _span(clips: Sequence[Clip]) -> tuple[float, float]:
    return clips[0].start_seconds, clips[-1].end_seconds


def _store_spans(
    video: Shots, spans: Mapping[str, tuple[float, float]], store: FrameStore, config: Config
) -> None:
    """Samples each span (start and end in seconds, in time order) and stores its frames under its id."""
    names, edges = list(spans), [edge for span in spans.values() for edge in span]
    decoded = watched(decode(video.path), config.videos.timeout_seconds)
    for place, frames in itertools.groupby(decoded, lambda frame: bisect(edges, frame.start_seconds)):
        # Even places are between the spans.
        if place % 2:
            start, end = edges[place - 1 : place + 1]
            sampled = sample_frames(frames, config.frames, start_seconds=start, end_seconds=end)
            store.write(names[place // 2], sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)


def _read_images(video: Shots, numbers: Collection[int], config: Config) -> list[Image]:
    """The frames with these numbers, at the size of training frames; raises SkipRecord."""
    stamps = {number: both for shot in video.shots for number, both in shot.time_stamps.items()}
    wanted = {number: stamps.get(number) for number in numbers}
    images, scaler, fitted = dict[int, Image](), Scaler(), None
    for number, size, decoded in watched(decode_at(video.path, wanted), config.videos.timeout_seconds):
        # All frames get the size of the first one, so that they can be stacked.
        fitted = fitted or fit_size(*size, max_pixels=config.frames.max_pixels)
        images[number] = scaler.scale(decoded, fitted)
    return [images[number] for number in numbers]


def load_embedder(checkpoint: str, device: str = "auto") -> Embed:
    """A function from S images to SigLIP or CLIP features [S, D]; raises ValueError if loading fails."""
    import torch

    from tempo.engine.ranks import pick_device

    processor = load_pretrained(checkpoint, "AutoImageProcessor")
    model = load_pretrained(checkpoint, "AutoModel").to(pick_device(device)).eval()

    def embed(images: Sequence[Image]) -> NDArray[np.float64]:
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            found = model.get_image_features(**inputs)
        # Depending on the version of transformers, this is a tensor or an output object that holds it.
        return np.asarray(getattr(found, "pooler_output", found).float().cpu(), np.float64)

    return embed


def load_pretrained(checkpoint: str, name: str) -> Any:
    """Loads the checkpoint with the transformers class `name`; raises ValueError if that fails."""
    from tempo.model.loading import repair_torchvision

    repair_torchvision()
    import transformers

    try:
        return getattr(transformers, name).from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"clips.features {checkpoint!r} cannot be loaded: {error}. Give a SigLIP or CLIP checkpoint"
        ) from None
