"""The command line: the main commands, and one command for each stage."""

import contextlib
import json
import shlex
import sys
import warnings
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tempo import __version__
from tempo.cli.evaluate import evaluate
from tempo.cli.plan import plan
from tempo.cli.probe import probe
from tempo.cli.terminal import (
    INTERRUPTED,
    ConfigArgument,
    RunArgument,
    SetOption,
    Terminated,
    console,
    readable_errors,
)
from tempo.config import VideosConfig, load_config
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.core.files import whole_lines, write_text
from tempo.core.progress import counters
from tempo.core.store import RunStore, check_run_directory, count_skipped
from tempo.engine.ranks import process_rank
from tempo.engine.types import Context
from tempo.pipeline import runner
from tempo.pipeline.stages import NAMES, STAGES, Stage

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a Video LLM the order of time with preference pairs that it generates itself.",
)

#: The metrics that `tempo status` shows for the last step of a phase.
METRICS = ("loss", "rewards/accuracies", "rewards/margins")

#: Lines of [frames] in the file that `tempo init` writes. The embedded model needs small frames.
EMBEDDED_PIXELS = "max_pixels = 16384       # per frame"
HUB_PIXELS = f"""\
max_pixels = {HUB_MAX_PIXELS}      # per frame
max_total_pixels = {HUB_TOTAL_PIXELS:_}  # per video: about 6,000 tokens for Qwen2.5-VL"""

OutOption = Annotated[Path, typer.Option("--out", help="run directory; created if it does not exist")]
RedoOption = Annotated[bool, typer.Option("--redo", help="discard and rerun stages with other settings")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False,
) -> None:
    if version:
        console().print(f"tempo {__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Main")
def run(
    config: ConfigArgument,
    out: OutOption,
    until: Annotated[str, typer.Option(metavar="STAGE", help="stop after this stage")] = "",
    overrides: SetOption = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="reuse stages with the same settings from RUN"),
    ] = None,
    redo: RedoOption = False,
) -> None:
    """Run every stage that is not finished yet, from the videos to the report."""
    settings = load_config(config, overrides or ())
    result = runner.run(settings, out, until=until, from_run=source, redo=redo, console=console())
    if process_rank() == 0:
        _print_evaluation(out)
        state = f"see the state of the run with: tempo status {out}"
        console().print(f"report: {result.report}" if result.report else state)


@app.command(rich_help_panel="Main")
def status(directory: RunArgument) -> None:
    """Show the state of each stage, skipped records with reasons, and the latest metrics."""
    check_run_directory(directory)
    store = RunStore(directory)
    counts, skipped = count_skipped(store), Counter[str]()
    for (stage, _), found in counts.items():
        skipped[stage] += found.num_records
    stages = Table("stage", "state", "rows", "skipped", title=str(directory))
    for name in NAMES:
        state = "done" if store.is_done(name) else "started" if store.fingerprint(name) else "-"
        rows = str(store.count(name)) if store.path(name).exists() else ""
        stages.add_row(name, state, rows, str(skipped[name] or ""))
    console().print(stages)
    if counts:
        headings = "stage", "reason", "count", "kept without this rule", "for example"
        reasons = Table(*headings, title="skipped, by reason")
        for (stage, reason), found in sorted(counts.items(), key=lambda x: NAMES.index(x[0][0])):
            num_only = str(found.num_only) if stage == "clips" else ""
            reasons.add_row(stage, reason, str(found.num_records), num_only, found.example[:100])
        console().print(reasons)
    for path in sorted(directory.glob("*/**/metrics.jsonl")):
        for row in map(json.loads, deque(whole_lines(path), 1)):
            figures = " ".join(f"{name} {row[name]:.3f}" for name in METRICS if name in row)
            console().print(f"{path.parent.relative_to(directory)}: step {row['step']:.0f} {figures}")
    _print_evaluation(directory)


def _print_evaluation(directory: Path) -> None:
    from tempo.evaluation.figures import figure_tables, read_evaluation

    for table in figure_tables(read_evaluation(directory)):
        console().print(table)


@app.command(rich_help_panel="Main")
def init(
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path("tempo.toml"),
    model: Annotated[str, typer.Option(help="checkpoint directory or hub name")] = "embedded",
) -> None:
    """Write a commented configuration for a folder of videos."""
    from tempo.model.loading import EMBEDDED, check_model_path
    from tempo.video.find import find_videos

    if out.exists():
        raise ValueError(f"{out} already exists. Choose another --out")
    check_model_path(model)
    find_videos([videos], VideosConfig().extensions)
    template = Path(__file__).with_name("starting_config.toml").read_text(encoding="utf-8")
    text = template.format(
        out=shlex.quote(str(out)),
        model=json.dumps(model, ensure_ascii=False),
        videos=json.dumps(str(videos.resolve()), ensure_ascii=False),
        pixels=EMBEDDED_PIXELS if model == EMBEDDED else HUB_PIXELS,
        checkpointing="false" if model == EMBEDDED else "true",
    )
    write_text(out, text)
    if model == EMBEDDED:
        console().print(
            f"warning: the model {model!r} only knows the synthetic world. For real videos, choose a "
            "checkpoint with --model"
        )
    command = ["tempo", "run", str(out), "--out", f"out/{videos.resolve().stem or 'run'}"]
    console().print(f"wrote {out}; next: {shlex.join(command)}")


@app.command(rich_help_panel="Main")
def export(
    directory: RunArgument,
    format_name: Annotated[str, typer.Option("--format", help="trl, ms-swift, llama-factory or parquet")],
    out: Annotated[Path, typer.Option("--out", help="folder to write to; must be empty or not exist")],
    push_to: Annotated[
        str, typer.Option(metavar="NAME", help="upload the pairs to this data set on the Hugging Face hub")
    ] = "",
) -> None:
    """Write the pairs of a run in another trainer's format, easy pairs first."""
    from tempo.preference.exporting import export_pairs

    check_run_directory(directory)
    num_pairs = export_pairs(directory, format_name, out, push_to=push_to)
    console().print(f"wrote {num_pairs} pairs to {out}; pairs.import_from can read them")
    if push_to:
        console().print(f"uploaded the pairs to the data set {push_to}")


@app.command(rich_help_panel="Main")
def audit(directory: RunArgument) -> None:
    """Measure how well the chosen answers can be picked without the video; write audit.json."""
    from tempo.preference.audit import audit_run
    from tempo.report.report import audit_table

    check_run_directory(directory)
    context, store = Context(load_config(directory / "config.toml"), directory), RunStore(directory)
    with store.lock(), counters(console()) as show:
        result = audit_run(context, progress=partial(show, "audit by the model"))
        store.forget("report")  # It is out of date now.
    console().print(audit_table(result.model_dump(mode="json")))
    console().print(result.verdict)


app.command(rich_help_panel="Main")(plan)
app.command(rich_help_panel="Main")(probe)
app.command(rich_help_panel="Main")(evaluate)


@app.command(rich_help_panel="Main")
def view(
    directory: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the page; 0 picks a free one")] = 0,
) -> None:
    """Browse the videos and pairs of a run in a local page; keep or reject pairs."""
    from tempo.report.view import RunView

    try:
        from tempo.report.view_server import serve
    except ModuleNotFoundError as error:
        text = "tempo view needs starlette and uvicorn. Install them with: pip install starlette uvicorn"
        raise ValueError(f"{text} ({error})") from None
    run = RunView(directory)
    with contextlib.suppress(Terminated):
        serve(run, port=port, show=lambda url: console().print(f"{url}\nOpen this address. Ctrl-C stops it."))
    if (reviews := directory / "reviews.jsonl").exists():
        command = f"tempo run {directory / 'config.toml'} --out {directory} --redo"
        console().print(f"your decisions are in {reviews}. To leave out the rejected pairs, run: {command}")


def _add_stage(stage: Stage) -> None:
    description = f"Run only this stage: {stage.description}.".replace("[", r"\[")

    @app.command(stage.name, help=description, rich_help_panel="Stages, in order")
    def _run_one(
        config: ConfigArgument, out: OutOption, overrides: SetOption = None, redo: RedoOption = False
    ) -> None:
        context = Context(load_config(config, overrides or ()), out)
        runner.run_stages(context, console(), only=stage.name, redo=redo)


for _stage in STAGES:
    if not _stage.is_auxiliary:
        _add_stage(_stage)


def main() -> None:
    """The entry point. Bad input gives one message and exit code 2; Ctrl-C a message on how to resume."""
    # Users can do nothing about deprecations inside libraries.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    # The other commands write their results only at the end.
    resumable = {"run", *(stage.name for stage in STAGES if not stage.is_auxiliary)}
    with readable_errors(can_resume=len(sys.argv) > 1 and sys.argv[1] in resumable):
        # typer returns this code for Ctrl-C.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
