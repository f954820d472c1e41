"""`tempo probe`: checks all arguments before any work, and writes its files at the end."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field, TypeAdapter

from tempo.cli.terminal import SetOption, check_output, console
from tempo.config import Config
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.config.load import override, parse_config
from tempo.core.files import write_json
from tempo.core.progress import counters
from tempo.model.loading import EMBEDDED, check_model_path


def probe(
    model: Annotated[str, typer.Argument(help="checkpoint directory or hub name, or `embedded`")],
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    json: Annotated[Path | None, typer.Option(help="file to write all results and descriptions to")] = None,
    chart: Annotated[Path | None, typer.Option(help="file to write a chart to, .png or .svg")] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="score the descriptions in this file, which --json of another probe wrote"),
    ] = None,
    describe_with: Annotated[str, typer.Option(metavar="PROMPT", help="prompt for the descriptions")] = "",
    num_videos: Annotated[int, typer.Option(min=1, help="maximum number of videos, drawn at random")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="maximum length of a description")] = 512,
    overrides: SetOption = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of all random choices")] = 0,
) -> None:
    """Measure how much a model notices when a video is reversed, shuffled, cut or frozen; needs no labels."""
    from tempo.evaluation import probe as probing
    from tempo.model.loading import frame_rate_warning, load_model, read_config
    from tempo.preference.prompts import DESCRIBE
    from tempo.video.find import find_videos

    check_model_path(model)
    if chart and chart.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--chart {chart}: the file name must end with .png or .svg")
    for path in (json, chart):
        check_output(path)
    config = inference_config(model, {"videos": {"paths": [str(videos)]}}, overrides or ())
    find_videos([videos], config.videos.extensions)
    frames, prompt, texts = config.frames, describe_with or DESCRIBE[1], read_texts(text) if text else None
    console().print(
        f"frames: {frames.fps:g} per second, at most {frames.max_frames} per video, "
        f"at most {frames.max_pixels} pixels each"
    )
    checkpoint = read_config(model, trust_remote_code=config.model.trust_remote_code)
    if warning := frame_rate_warning(checkpoint, frames.fps):
        console().print(warning)
    with counters(console()) as show:
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
    if json:
        settings: dict[str, Any] = {"model": model, "videos": str(videos), "text": str(text or "own")}
        settings |= {"prompt": prompt, "seed": seed, "frames": frames.model_dump()}
        write_json(json, settings | report.model_dump(mode="json"))
    if chart:
        title = f"{model} on {len(report.descriptions)} videos of {videos}"
        probing.write_chart(report, chart, title=title)
    console().print(probing.probe_table(report))
    for row in report.left_out:
        console().print(f"left out: {row.id}: {row.reason}: {row.detail}")


def inference_config(model: str, settings: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of a command that only uses a model, with larger frames for one from the hub.

    `overrides` are those of `--set`; raises ValueError for sections other than [model] and [frames].
    """
    sections = override({}, overrides)
    if unused := sections.keys() - {"model", "frames"}:
        raise ValueError(f"--set {min(unused)}: only [model] and [frames] have an effect. Remove the option")
    hub = {"max_pixels": HUB_MAX_PIXELS, "max_total_pixels": HUB_TOTAL_PIXELS}
    frames = {**({} if model == EMBEDDED else hub), **sections.get("frames", {})}
    return parse_config({**settings, "model": {**sections.get("model", {}), "path": model}, "frames": frames})


def read_texts(path: Path) -> dict[str, str]:
    """The descriptions by video id from a file that `tempo probe --json` wrote; raises ValueError."""
    try:
        found = json.loads(path.read_bytes())["descriptions"]
        return TypeAdapter(dict[str, Annotated[str, Field(pattern=r"\S")]]).validate_python(found)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"--text {path} has no descriptions ({error}). Give a file that `tempo probe --json` wrote"
        ) from None
