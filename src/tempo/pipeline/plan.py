"""The plan of a run: what it will need and what this machine lacks, from video headers and tensor shapes."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tempo.config import Config
from tempo.core.records import Video
from tempo.engine.pool import check_engine
from tempo.engine.ranks import pick_device
from tempo.engine.types import SkipRecord, count_workers
from tempo.model.loading import check_device
from tempo.pipeline.estimate import Estimate, Step
from tempo.pipeline.rates import Rates, assumed_rates, measure_rates, num_decoded
from tempo.pipeline.stages import STAGES
from tempo.synthetic.drawing import FPS, SHOT_FRAMES, SIZE
from tempo.video.find import find_videos, read_header


@dataclass(frozen=True)
class Plan:
    """The estimate. `disk_bytes` is by purpose; `problems` are unreadable files and missing requirements."""

    num_videos: int
    num_kept: int
    video_seconds: float
    longest_tokens: int
    median_tokens: int
    decoding_seconds: float
    steps: tuple[Step, ...]
    disk_bytes: dict[str, int]
    free_bytes: int
    device_bytes: int
    problems: tuple[str, ...]
    rates: Rates


def make_plan(config: Config, directory: Path, *, device_bytes: int = 0, measure: bool = False) -> Plan:
    """The plan of a run in `directory` on a device with this much memory, by default that of this machine.

    Reads headers of videos, and the configuration and processor of the model, but no weights. `measure`
    takes the rates from this machine and a sample of the videos. Raises ValueError if no video can be read.
    """
    videos, unreadable = read_videos(config)
    # With `device_bytes`, the plan is for a GPU of another machine.
    is_remote = bool(device_bytes) and config.model.device == "auto"
    device = torch.device("cuda") if is_remote else pick_device(config.model.device)
    while not directory.exists():
        directory = directory.absolute().parent
    rates = measure_rates(config, videos, directory, device) if measure else assumed_rates(config, device)
    if config.synthetic:
        rates = replace(
            rates, kept_per_video=1 - config.synthetic.plain_share, source="synthetic.plain_share"
        )
    estimate = Estimate(config, videos, rates, device, device_bytes or memory_bytes(device))
    num_workers = count_workers(config.run.num_workers)
    return Plan(
        num_videos=len(videos),
        num_kept=estimate.num_kept,
        video_seconds=sum(video.duration_seconds for video in videos),
        longest_tokens=estimate.longest.lengths[0],
        median_tokens=estimate.median.lengths[0],
        decoding_seconds=sum(map(num_decoded, videos)) / rates.decoded_pixels_per_second / num_workers,
        steps=(steps := tuple(estimate.steps())),
        disk_bytes=estimate.disk_bytes(steps),
        free_bytes=shutil.disk_usage(directory).free,
        device_bytes=estimate.device_bytes,
        problems=(*unreadable, *find_missing(config)),
        rates=rates,
    )


def read_videos(config: Config) -> tuple[list[Video], list[str]]:
    """The headers of all readable videos, and a line for each reason why other files cannot be read.

    Headers of a synthetic world are invented, with the maximum number of shots.
    """
    if config.synthetic:
        seconds, size = config.synthetic.max_shots * SHOT_FRAMES / FPS, {"width": SIZE, "height": SIZE}
        video = Video(id="", path="", duration_seconds=seconds, fps=FPS, codec="h264", **size)
        return [video] * config.synthetic.num_videos, []
    videos, skipped = list[Video](), dict[str, list[str]]()
    for path in map(str, find_videos(config.videos.paths, config.videos.extensions)):
        try:
            videos.append(read_header(path, path))
        except SkipRecord as skip:
            skipped.setdefault(skip.reason, []).append(path)
    unreadable = [f"{len(paths)} files: {reason}, such as {paths[0]}" for reason, paths in skipped.items()]
    if not videos:
        raise ValueError(f"videos.paths: no file can be read. {'. '.join(unreadable)}")
    return videos, unreadable


def memory_bytes(device: torch.device) -> int:
    """The memory of a device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_missing(config: Config) -> list[str]:
    """What this machine lacks: packages, files, a GPU."""

    def check_quantization() -> None:
        if config.model.quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("model.quantization '4bit' needs bitsandbytes. Run: pip install bitsandbytes")

    checks: list[Callable[[], object]] = [check_quantization, partial(check_engine, config.run)]
    checks += [partial(check_device, config.model.device)]
    checks += [partial(stage.check, config) for stage in STAGES if not stage.idle(config)]
    found = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    if pick_device(config.model.device).type == "cpu":
        found.append("no GPU: the model runs on the CPU")
    return found
