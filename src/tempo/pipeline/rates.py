"""Speeds of this machine, and what is known about videos only after decoding them: assumed or measured."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tempo.config import Config, FramesConfig
from tempo.core.records import Clips, Skipped, Video
from tempo.engine.ranks import pick_device
from tempo.engine.types import Context, flatten, load
from tempo.model.loading import pick_dtype
from tempo.pipeline.stages import find_stage
from tempo.video.decode import fit_size
from tempo.video.find import video_id

#: `measure_rates` starts no further video after this time.
SAMPLE_SECONDS = 60.0


@dataclass(frozen=True)
class Rates:
    """Speeds of one device and one process, and what is known about videos only after decoding them.

    `kept_per_video` counts segments of videos, and may be above 1. `num_clips` is for each of them.
    """

    flops_per_second: float
    memory_bytes_per_second: float
    kept_per_video: float
    source: str
    disk_bytes_per_second: float = 0.0
    decoded_pixels_per_second: float = 1.5e8
    num_clips: float = 8.0
    jpeg_bytes_per_pixel: float = 0.5


def frame_shape(video: Video, config: FramesConfig) -> tuple[int, int, int, float]:
    """Number, height and width of the frames that a run stores of a video, and their rate per second."""
    wanted = max(1, round(video.duration_seconds * config.fps))
    count = min(wanted, config.max_frames)
    most = min(config.max_pixels, (config.max_total_pixels or sys.maxsize) // count)
    width, height = fit_size(video.width, video.height, max_pixels=most)
    return count, height, width, config.fps * count / wanted


def assumed_rates(config: Config, device: torch.device) -> Rates:
    """For a GPU 40 % of an A100's data sheet; for a CPU one core of the machine in docs/benchmarks.md."""
    flops, copied = (5e10, 1e10) if device.type == "cpu" else (0.4 * 312e12, 0.4 * 2e12)
    num_kept = 8 if config.clips.source == "shots" else 21
    source = f"assumed, from {num_kept} of 28 files in benchmarks/coverage.py"
    return Rates(flops, copied, kept_per_video=num_kept / 28, source=source)


def measure_rates(config: Config, videos: Sequence[Video], directory: Path, device: torch.device) -> Rates:
    """The rates of this machine: of writing to `directory`, and of the stages up to clips on some videos.

    Those of the device come from a matrix product and a copy; they are assumed if it is not in this machine.
    """
    payload = bytes(2**28)
    seconds = _seconds(lambda: _write(directory, payload))
    rates = replace(assumed_rates(config, device), disk_bytes_per_second=len(payload) / seconds)
    if device.type == pick_device("auto").type:
        dtype = pick_dtype(config.model.dtype, device)
        square, large = torch.ones(2048, 2048, device=device, dtype=dtype), torch.ones(2**26, device=device)
        rates = replace(
            rates,
            flops_per_second=2 * 2048**3 / _seconds(lambda: float((square @ square)[0, 0])),
            memory_bytes_per_second=2 * large.nbytes / _seconds(lambda: float(large.clone()[0])),
        )
    return rates if config.synthetic else _sample_videos(config, videos, rates)


def _sample_videos(config: Config, videos: Sequence[Video], rates: Rates) -> Rates:
    """The rates with those of the stages up to clips, on about eight videos of all lengths."""
    rows = sorted(videos, key=lambda video: video.duration_seconds)[:: max(1, len(videos) // 8)]
    clips, num_done, start = list[Clips](), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(config, Path(folder))
        workers = [load(find_stage(name).worker)(context) for name in ("shots", "clips")]
        while num_done < len(rows) and time.perf_counter() - start < SAMPLE_SECONDS:
            found: list[Any] = [rows[num_done].model_copy(update={"id": video_id(rows[num_done].path)})]
            for worker in workers:
                found = [row for row in flatten(worker(found)) if not isinstance(row, Skipped)]
            clips += found
            num_done += 1
        seconds = time.perf_counter() - start
        num_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    num_stored = sum(math.prod(frame_shape(video, config.frames)[:3]) for video in rows[:num_done])
    return replace(
        rates,
        decoded_pixels_per_second=sum(map(num_decoded, rows[:num_done])) / seconds,
        kept_per_video=len(clips) / num_done,
        num_clips=sum(len(row.clips) for row in clips) / len(clips) if clips else rates.num_clips,
        jpeg_bytes_per_pixel=num_bytes / num_stored,
        source=f"measured here, on {num_done} of the videos",
    )


def num_decoded(video: Video) -> float:
    """The number of pixels of all frames of a video file."""
    return video.duration_seconds * video.fps * video.width * video.height


def _write(directory: Path, payload: bytes) -> None:
    """Writes bytes to a file in `directory` up to the disk, and removes it."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _seconds(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=1, repeat=3))
