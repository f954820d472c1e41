"""The probe as a command: what it is given is checked before any work, files are written at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo.cli.init import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.config import FramesConfig
from tempo.config.load import override, parse_config
from tempo.core.progress import Counter
from tempo.core.store import write_json
from tempo.evaluation.descriptions import read_texts, write_texts
from tempo.evaluation.probe import Probed, ProbeSettings, probe
from tempo.evaluation.probe_chart import check_chart_path, write_chart
from tempo.evaluation.probe_summary import summarize
from tempo.evaluation.probe_videos import open_videos
from tempo.model.loading import EMBEDDED, check_model_path, load_video_lm


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe, and the files to write; None: none.

    `overrides` are `section.key=value` of [model] and [frames]; `text` is a file of descriptions to score.
    """

    model: str
    videos: Path
    settings: ProbeSettings = field(default_factory=ProbeSettings)
    overrides: Sequence[str] = ()
    text: Path | None = None
    json: Path | None = None
    chart: Path | None = None
    save_text: Path | None = None


def run_probe(request: ProbeRequest, console: Console) -> dict[str, Any]:
    """Probes a model and writes the files; returns what stands in the JSON file. Raises ValueError."""
    settings = request.settings
    _check(request)
    asked = _asked(request)
    model = {**asked.get("model", {}), "path": request.model}
    config = parse_config({"model": model, "videos": {"paths": [str(request.videos)]}})
    videos = open_videos(request.videos, _frames(request, asked.get("frames", {})))
    taken = videos.frames
    console.print(f"frames: {taken.fps:g} a second, at most {taken.max_frames}, of {taken.max_pixels} pixels")
    if request.text:
        settings = replace(settings, texts=read_texts(request.text))
    lm = load_video_lm(config.model)
    total = min(len(videos.paths), settings.num_videos)
    with Counter(console, "probe", total).live() as counter:
        probed = probe(lm, videos, settings, counter.advance)
    result = {
        "model": request.model,
        "videos": str(request.videos),
        "text": str(request.text) if request.text else "own",
        "prompt": settings.prompt,
        "seed": settings.seed,
        "frames": videos.frames.model_dump(),
        **summarize(probed.comparisons, seed=settings.seed),
        "comparisons": [row.model_dump() for row in probed.comparisons],
        "left_out": [row.model_dump(exclude={"stage"}) for row in probed.left_out],
    }
    _write(request, result, probed)
    return result


def _asked(request: ProbeRequest) -> dict[str, Any]:
    """The overrides by section; raises ValueError for one that would do nothing."""
    asked = override({}, request.overrides)
    for section, keys in asked.items():
        if section not in ("model", "frames") or not isinstance(keys, dict):
            raise ValueError(f"--set {section} would do nothing: a probe has [model] and [frames] only")
    if "path" in asked.get("model", {}):
        raise ValueError("--set model.path would do nothing: the model is what comes first after `probe`")
    return asked


def _frames(request: ProbeRequest, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is asked for; for a model that is not embedded larger pictures, but those of a run."""
    if request.model == EMBEDDED or (request.videos / "config.toml").is_file():
        return asked
    frames = {"max_pixels": HUB_MAX_PIXELS, **asked}
    # A value that is none is refused by the section.
    counts = (frames["max_pixels"], frames.get("max_frames", FramesConfig().max_frames))
    fits = all(isinstance(count, int) for count in counts) and math.prod(counts) <= HUB_TOTAL_PIXELS
    return frames if fits else {"max_total_pixels": HUB_TOTAL_PIXELS, **frames}


def _check(request: ProbeRequest) -> None:
    """Raises ValueError for a model or a file that cannot be, and for options that would do nothing."""
    check_model_path(request.model)
    if request.chart:
        check_chart_path(request.chart)
    for path in (request.json, request.chart, request.save_text):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"{path} cannot be written: name a file in a folder that exists")
    if not request.text:
        return
    if request.save_text:
        raise ValueError(f"--save-text {request.save_text} would do nothing with --text; remove it")
    if (limit := request.settings.max_new_tokens) != ProbeSettings.max_new_tokens:
        raise ValueError(f"--max-new-tokens {limit} would do nothing with --text; remove it")


def _write(request: ProbeRequest, result: dict[str, Any], probed: Probed) -> None:
    if request.save_text:
        write_texts(request.save_text, probed.descriptions)
    if request.json:
        write_json(request.json, result)
    if request.chart:
        name = f"{request.model} on {result['num_videos']} videos of {request.videos}"
        write_chart(result, request.chart, title=name)
