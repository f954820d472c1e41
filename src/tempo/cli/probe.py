"""`tempo probe`: arguments are checked before any work, files are written at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo.config import FramesConfig
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.config.load import override, parse_config
from tempo.core.files import write_json, write_lines
from tempo.core.progress import Counters
from tempo.core.records import Record
from tempo.core.row_files import read_rows
from tempo.evaluation.probe import probe
from tempo.evaluation.probe_report import ProbeReport, write_chart
from tempo.model.loading import EMBEDDED, check_model_path, load_model
from tempo.video.find import find_videos


class Description(Record):
    """A row of the file of `--text`: a description of the video `id`."""

    text: str


@dataclass(frozen=True)
class ProbeRequest:
    """The arguments of `tempo probe`; `overrides` are `section.key=value` of [model] and [frames]."""

    model: str
    videos: Path
    prompt: str
    num_videos: int
    max_new_tokens: int
    seed: int
    overrides: Sequence[str]
    text: Path | None
    json: Path | None
    chart: Path | None
    save_text: Path | None


def run_probe(request: ProbeRequest, console: Console) -> ProbeReport:
    """Probes a model and writes the files; raises ValueError for bad arguments before any work."""
    check_model_path(request.model)
    _check_files(request)
    given = _sections(request)
    config = parse_config(
        {
            "model": {**given.get("model", {}), "path": request.model},
            "videos": {"paths": [str(request.videos)]},
            "frames": _frames(request, given.get("frames", {})),
        }
    )
    find_videos(config.videos.paths, config.videos.extensions)
    texts = read_texts(request.text) if request.text else None
    frames = config.frames
    console.print(
        f"frames: {frames.fps:g} a second, at most {frames.max_frames}, of {frames.max_pixels} pixels"
    )
    model = load_model(**config.model.model_dump())
    with Counters(console) as counters:
        report = probe(
            model,
            request.videos,
            frames=frames,
            prompt=request.prompt,
            num_videos=request.num_videos,
            max_new_tokens=request.max_new_tokens,
            texts=texts,
            seed=request.seed,
            progress=lambda done, total: counters.show("probe", done, total),
        )
    _write(request, frames, report)
    return report


def read_texts(path: Path) -> dict[str, str]:
    """Descriptions by video id from a JSONL file with `id` and `text`; raises ValueError for a bad row."""
    rows = read_rows(path, Description, key="--text")
    texts = {row.id: row.text for row in rows}
    if len(texts) < len(rows):
        raise ValueError(f"--text {path} has {len(rows)} rows for {len(texts)} videos; keep one per video")
    if empty := [row.id for row in rows if not row.text.strip()]:
        raise ValueError(f"--text {path}: the text of {empty[0]!r} is empty; remove the row")
    return texts


def _sections(request: ProbeRequest) -> dict[str, Any]:
    """The overrides by section; raises ValueError for one that a probe does not use."""
    sections = override({}, request.overrides)
    for name in sections:
        if name not in ("model", "frames"):
            raise ValueError(f"--set {name} has no effect on a probe, which uses [model] and [frames]")
    return sections


def _frames(request: ProbeRequest, given: dict[str, Any]) -> dict[str, Any]:
    """Values of [frames]; models of the hub get larger frames than embedded ones."""
    if request.model == EMBEDDED:
        return given
    return {"max_pixels": HUB_MAX_PIXELS, "max_total_pixels": HUB_TOTAL_PIXELS, **given}


def _check_files(request: ProbeRequest) -> None:
    """Raises ValueError for a file that cannot be written."""
    if request.chart and request.chart.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--chart {request.chart}: the name must end with .png or .svg")
    for path in (request.json, request.chart, request.save_text):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"{path} cannot be written; name a file in a folder that exists")


def _write(request: ProbeRequest, frames: FramesConfig, report: ProbeReport) -> None:
    if request.save_text:
        rows = (Description(id=name, text=text) for name, text in report.descriptions.items())
        write_lines(request.save_text, (row.model_dump_json() for row in rows))
    if request.json:
        settings = {
            "model": request.model,
            "videos": str(request.videos),
            "text": str(request.text) if request.text else "own",
            "prompt": request.prompt,
            "seed": request.seed,
            "frames": frames.model_dump(),
        }
        write_json(request.json, settings | report.model_dump(mode="json", exclude={"descriptions"}))
    if request.chart:
        title = f"{request.model} on {report.num_videos} videos of {request.videos}"
        write_chart(report, request.chart, title=title)
