"""The stage `clips`: selects videos with enough events, and finds their clips and two key frames per clip.

Rules and constants are those of TEMPO (arXiv 2503.16929); see method.md, section 2. S: shots, D: features.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from tempo.config import ClipsConfig, Config
from tempo.core.records import Clip, Clips, Shot, Shots
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.decode import Image, Scaler, decode_at, fit_size
from tempo.video.faults import Watchdog, per_record, watched
from tempo.video.find import check_unchanged
from tempo.video.frames import FrameStore, encode_jpeg


def make_worker(context: Context) -> Worker:
    """A worker that maps Shots to Clips or Skipped and adds key frames to the frame store.

    Raises ValueError if `clips.features` names a checkpoint that cannot be used.
    """
    store, config = FrameStore(context.directory / "frames"), context.config
    checkpoint = config.clips.features
    embed = None if checkpoint == "embedded" else load_embedder(checkpoint, config.model.device)

    def cut(video: Shots) -> Clips:
        check_shots(video.shots, config.clips)
        check_unchanged(video.path, video.id)
        features = None
        if embed:
            middles = [(shot.start_frame + shot.end_frame) // 2 for shot in video.shots]
            features = embed(_read_images(video, middles, config))
        clips = find_clips(video.shots, config.clips, features=features)
        images = _read_images(video, [number for clip in clips for number in clip.key_frames], config)
        store.write_key_frames(video.id, [encode_jpeg(one, config.frames.jpeg_quality) for one in images])
        return Clips(id=video.id, path=video.path, duration_seconds=video.duration_seconds, clips=clips)

    return per_record("clips", cut)


def _read_images(video: Shots, numbers: Collection[int], config: Config) -> list[Image]:
    """The frames with these numbers, at the size of training frames; raises SkipRecord."""
    stamps = {number: both for shot in video.shots for number, both in shot.time_stamps.items()}
    wanted = {number: stamps.get(number) for number in numbers}

    def work(watchdog: Watchdog) -> list[Image]:
        images, scaler, fitted = dict[int, Image](), Scaler(), None
        for number, size, decoded in decode_at(video.path, wanted, watchdog):
            # All frames get the size of the first one, so that they can be stacked.
            fitted = fitted or fit_size(*size, max_pixels=config.frames.max_pixels)
            images[number] = scaler.scale(decoded, fitted)
        return [images[number] for number in numbers]

    return watched(work, config.videos.timeout_seconds)


def find_clips(
    shots: Sequence[Shot], config: ClipsConfig | None = None, *, features: ArrayLike | None = None
) -> tuple[Clip, ...]:
    """The clips of a video in time order: consecutive shots of one group, with two key frames each.

    Shots are grouped by `features` [S, D], or by their own descriptors; `config` is the section `[clips]`.
    Raises SkipRecord, a ValueError, if the video is outside the limits of that section.
    """
    config = config or ClipsConfig()
    check_shots(shots, config)
    rows = [shot.descriptor for shot in shots] if features is None else features
    groups = group_shots(rows, config.similarity)
    runs = [list(run) for _, run in itertools.groupby(range(len(groups)), groups.__getitem__)]
    if len(runs) < config.min_clips:
        raise SkipRecord("too few clips", f"{len(runs)} clips, min_clips is {config.min_clips}")
    group, count = Counter(groups[run[0]] for run in runs).most_common(1)[0]
    limit = min(config.max_group_clips, max(1, len(runs) // config.group_share))
    if count > limit:
        detail = f"group {group} has {count} of {len(runs)} clips, at most {limit} are allowed"
        raise SkipRecord("group comes back too often", detail)
    return tuple(_make_clip(shots[run[0] : run[-1] + 1], groups[run[0]], run[0]) for run in runs)


def _make_clip(shots: Sequence[Shot], group: int, first_shot: int) -> Clip:
    start, end = shots[0].start_frame, shots[-1].end_frame
    rows = [row for shot in shots for row in zip(shot.candidates, shot.sharpness, strict=True)]
    key_frames = choose_key_frames(end - start, {number - start: sharpness for number, sharpness in rows})
    return Clip(
        group=group,
        first_shot=first_shot,
        num_shots=len(shots),
        start_seconds=shots[0].start_seconds,
        end_seconds=shots[-1].end_seconds,
        key_frames=tuple(start + number for number in key_frames),
    )


def group_shots(descriptors: ArrayLike, similarity: float) -> list[int]:
    """The group number of each shot, given descriptors [S, D]; groups are numbered in order of appearance.

    The two most similar groups are merged as long as their cosine similarity is above `similarity`. The
    merged row of the similarity matrix is the mean of the two rows, regardless of group sizes (WPGMA).
    """
    rows = np.array(descriptors, np.float64)
    if len(rows) == 1:
        return [0]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    # Rounded, so that the order of ties does not depend on the machine's BLAS.
    distance_SS = np.round(1 - rows @ rows.T, 6)
    np.fill_diagonal(distance_SS, 0)
    tree = linkage(squareform(np.maximum(distance_SS, 0), checks=False), method="weighted")
    # Groups whose similarity equals the limit are not merged.
    limit = np.nextafter(round(1 - similarity, 6), 0)
    labels = fcluster(tree, limit, criterion="distance").tolist()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def check_shots(shots: Sequence[Shot], config: ClipsConfig) -> None:
    """Raises SkipRecord if the number or the length of the shots is outside the limits."""
    if len(shots) < config.min_shots:
        raise SkipRecord("too few shots", f"{len(shots)} usable shots, min_shots is {config.min_shots}")
    if len(shots) > config.max_shots:
        raise SkipRecord("too many shots", f"{len(shots)} usable shots, max_shots is {config.max_shots}")
    longest = max(shot.seconds for shot in shots)
    if longest > config.max_shot_seconds:
        detail = f"a shot of {longest:.2f} seconds, max_shot_seconds is {config.max_shot_seconds:g}"
        raise SkipRecord("shot too long", detail)


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


def load_embedder(checkpoint: str, device: str = "auto") -> Callable[[Sequence[Image]], NDArray[np.float64]]:
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
