"""`tempo probe`: checks all arguments before any work, and writes its files at the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tempo.config import Config
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.config.load import override, parse_config
from tempo.core.files import read_rows, write_json, write_lines
from tempo.core.progress import counters
from tempo.core.records import Record
from tempo.model.loading import EMBEDDED, check_model_path

#: The backslashes prevent rich from parsing the section names as markup.
SET_HELP = r"override a value of \[model] or \[frames], in TOML syntax; may be repeated"


class Description(Record):
    """A row of the `--text` file: a description of the video `id`."""

    text: str


def probe(
    model: Annotated[str, typer.Argument(help="checkpoint directory or hub name, or `embedded`")],
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    json: Annotated[Path | None, typer.Option(help="file to write all results to")] = None,
    chart: Annotated[Path | None, typer.Option(help="file to write a chart to, .png or .svg")] = None,
    text: Annotated[
        Path | None, typer.Option(help="JSONL file with id and text: descriptions to score")
    ] = None,
    save_text: Annotated[
        Path | None, typer.Option(help="file to write the descriptions to, for use with --text")
    ] = None,
    describe_with: Annotated[str, typer.Option(metavar="PROMPT", help="prompt for the descriptions")] = "",
    num_videos: Annotated[int, typer.Option(min=1, help="maximum number of videos, drawn at random")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="maximum length of a description")] = 512,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="section.key=value", help=SET_HELP)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of all random choices")] = 0,
) -> None:
    """Measure how much a model notices when a video is reversed, shuffled, cut or frozen; needs no labels."""
    from tempo.evaluation import probe as probing
    from tempo.model.limits import frame_rate_warning
    from tempo.model.loading import load_model, read_config
    from tempo.preference.prompts import DESCRIBE
    from tempo.video.find import find_videos

    console = Console(highlight=False, soft_wrap=True, markup=False)
    check_model_path(model)
    if chart and chart.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--chart {chart}: the file name must end with .png or .svg")
    for path in (json, chart, save_text):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"{path} cannot be written. Choose a file in a folder that exists")
    config = inference_config(model, {"videos": {"paths": [str(videos)]}}, overrides or ())
    find_videos([videos], config.videos.extensions)
    frames, prompt, texts = config.frames, describe_with or DESCRIBE[1], read_texts(text) if text else None
    console.print(
        f"frames: {frames.fps:g} per second, at most {frames.max_frames} per video, "
        f"at most {frames.max_pixels} pixels each"
    )
    checkpoint = read_config(model, trust_remote_code=config.model.trust_remote_code)
    if warning := frame_rate_warning(checkpoint, frames.fps):
        console.print(warning)
    with counters(console) as show:
        report = probing.probe(
            load_model(**config.model.model_dump()),
            videos,
            frames=frames,
            prompt=prompt,
            num_videos=num_videos,
            max_new_tokens=max_new_tokens,
            texts=texts,
            seed=seed,
            progress=partial(show, "probe"),
        )
    if save_text:
        rows = (Description(id=name, text=found) for name, found in report.descriptions.items())
        write_lines(save_text, (row.model_dump_json() for row in rows))
    if json:
        settings: dict[str, Any] = {"model": model, "videos": str(videos), "text": str(text or "own")}
        settings |= {"prompt": prompt, "seed": seed, "frames": frames.model_dump()}
        write_json(json, settings | report.model_dump(mode="json", exclude={"descriptions"}))
    if chart:
        title = f"{model} on {report.figures[-1].num_videos} videos of {videos}"
        probing.write_chart(report, chart, title=title)
    console.print(probing.probe_table(report))
    for row in report.left_out:
        console.print(f"left out: {row.id}: {row.reason}: {row.detail}")


def inference_config(model: str, settings: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of a command that only uses a model, with larger frames for one from the hub.

    `overrides` are those of `--set`; raises ValueError for sections other than [model] and [frames].
    """
    sections = override({}, overrides)
    if unused := sections.keys() - {"model", "frames"}:
        raise ValueError(
            f"--set {min(unused)}: only the sections [model] and [frames] count here. Remove the option"
        )
    hub = {"max_pixels": HUB_MAX_PIXELS, "max_total_pixels": HUB_TOTAL_PIXELS}
    frames = {**({} if model == EMBEDDED else hub), **sections.get("frames", {})}
    return parse_config({**settings, "model": {**sections.get("model", {}), "path": model}, "frames": frames})


def read_texts(path: Path) -> dict[str, str]:
    """Descriptions by video id from a JSONL file with `id` and `text`; raises ValueError for a bad row."""
    rows = read_rows(path, Description, key="--text")
    texts = {row.id: row.text for row in rows}
    if len(texts) < len(rows):
        raise ValueError(
            f"--text {path} has {len(rows)} rows for {len(texts)} videos. Keep one row per video"
        )
    if empty := [row.id for row in rows if not row.text.strip()]:
        raise ValueError(f"--text {path}: the text of {empty[0]!r} is empty. Remove the row")
    return texts
