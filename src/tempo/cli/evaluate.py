"""`tempo evaluate`: public benchmarks, for a checkpoint or for all models of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempo.cli.probe import inference_config
from tempo.cli.terminal import SetOption, check_output, console
from tempo.config import Config, parse_config
from tempo.config.load import override
from tempo.core.files import write_json
from tempo.core.progress import counters
from tempo.core.store import read_config
from tempo.engine.types import Context
from tempo.model.loading import check_model_path

if TYPE_CHECKING:
    from tempo.model.chat import VideoLM


def evaluate(
    model: Annotated[str, typer.Argument(help="checkpoint, hub name, `embedded`, or run directory")],
    benchmark: Annotated[
        list[str], typer.Option(help="public benchmark: see docs/evaluation.md; may be repeated")
    ],
    data: Annotated[
        list[Path] | None, typer.Option(help="folder with its files; one for each --benchmark, in order")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="download the files from the hub instead of --data")
    ] = False,
    scoring: Annotated[str, typer.Option(help="letter, sum, mean or generate")] = "letter",
    num_frames: Annotated[
        int | None, typer.Option(help="frames per video; docs/evaluation.md lists the defaults")
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="also ask the questions without the videos")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="maximum length of a written answer")] = 128,
    out: Annotated[Path | None, typer.Option(help="JSON file to write all figures to")] = None,
    overrides: SetOption = None,
) -> None:
    """Evaluate a model, or all models of a run, on public benchmarks."""
    from tempo.evaluation.figures import Evaluation, figure_tables
    from tempo.evaluation.public.tasks import answer_task, load_task, result_notes, task_result
    from tempo.evaluation.run import check_task

    check_output(out)
    folders = [_download(name) for name in benchmark] if download else [str(path) for path in data or ()]
    if len(folders) != len(benchmark):
        counts = f"got --benchmark {len(benchmark)} times and --data {len(folders)} times"
        raise ValueError(f"{counts}. Give one --data for each --benchmark, or --download")
    shared = {"scoring": scoring, "num_frames": num_frames, "blind": blind, "max_new_tokens": max_new_tokens}
    asked = [{"name": name, "data": path, **shared} for name, path in zip(benchmark, folders, strict=True)]
    config, models = _models(model, asked, overrides or [])
    tasks = [load_task(settings) for settings in config.evaluation.benchmarks]
    for task in tasks:
        check_task(task, config)
    with counters(console()) as show:
        for name, load in models.items():
            # Each model is loaded once; the new `lm` frees the previous model.
            lm = functools.cache(load)
            for task in tasks:
                progress = functools.partial(show, f"{task.settings.name}: {name}")
                answer_task(task, name, lm, config, progress=progress)
    results = [task_result(task, config) for task in tasks]
    if out:
        write_json(out, {"model": model, "results": [result.model_dump(mode="json") for result in results]})
    figures = tuple(figure for result in results for figure in result.figures)
    notes = tuple(note for result in results for note in result_notes(result))
    console().print(*figure_tables(Evaluation(figures=figures, notes=notes)), sep="\n")


def _models(
    model: str, asked: list[dict[str, Any]], overrides: list[str]
) -> tuple[Config, dict[str, Callable[[], VideoLM]]]:
    """The configuration, and functions that load a checkpoint, or each model of a run."""
    from tempo.model.loading import load_model
    from tempo.training.phases import run_models

    if settings := read_config(Path(model)):
        settings.setdefault("evaluation", {})["benchmarks"] = asked
        config = parse_config(override(settings, overrides))
        run = run_models(Context(config, Path(model)))
        return config, {name: trained.for_inference for name, trained in run.items()}
    check_model_path(model)
    settings = {"videos": {"paths": [one["data"] for one in asked]}, "evaluation": {"benchmarks": asked}}
    config = inference_config(model, settings, overrides)
    return config, {"model": lambda: load_model(**config.model.model_dump())}


def _download(name: str) -> str:
    """The snapshot of a benchmark in the cache of the Hugging Face hub; raises ValueError."""
    from huggingface_hub import snapshot_download

    from tempo.evaluation.public.tasks import find_benchmark

    hub = find_benchmark(name).hub
    try:
        return str(snapshot_download(hub, repo_type="dataset"))
    # Errors of the hub, the network and the disk have no common class.
    except Exception as error:
        raise ValueError(f"--download: {hub} cannot be downloaded: {error}. Use --data") from None
