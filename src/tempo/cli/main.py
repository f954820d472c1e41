"""The command line: run, status, init, export, audit, probe, and one subcommand per stage."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tempo import __version__
from tempo.cli.errors import INTERRUPTED, Terminated, fail, machine_fault, stop, terminable
from tempo.config import load_config
from tempo.core.store import run_directory_error
from tempo.engine.ranks import process_rank
from tempo.engine.types import Context
from tempo.pipeline import RunResult, runner
from tempo.pipeline.stages import STAGES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a Video LLM the order of time, with pairs that it makes itself.",
)

#: Commands that resume what they have done; the others write at their end.
RESUMABLE = ("run", *(stage.name for stage in STAGES if not stage.is_auxiliary))

ConfigArgument = Annotated[Path, typer.Argument(help="configuration in TOML; `tempo init` writes one")]
OutOption = Annotated[Path, typer.Option("--out", help="directory of the run; created if it does not exist")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="section.key=value", help="override one value, in TOML; may be repeated"),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="take over what this run made under the same settings"),
]
RedoOption = Annotated[
    bool,
    typer.Option("--redo", help="discard stages that were made with another config, and make them again"),
]
EngineOption = Annotated[str, typer.Option(help="where stages run: local, or ray (extra `ray`)")]
AddressOption = Annotated[
    str,
    typer.Option(metavar="host:port", help="Ray cluster to join, or auto; by default Ray is started here"),
]


def _show_version(is_given: bool) -> None:
    if is_given:
        console().print(f"tempo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Options before a subcommand."""


def console() -> Console:
    """The console for output; without markup, since file names and messages of FFmpeg contain brackets."""
    return Console(highlight=False, soft_wrap=True, markup=False)


@app.command(rich_help_panel="Main")
def run(
    config: ConfigArgument,
    out: OutOption,
    until: Annotated[
        str,
        typer.Option(metavar="STAGE", help="stop after this stage, one of those that `tempo --help` lists"),
    ] = "",
    overrides: SetOption = None,
    source: FromOption = None,
    redo: RedoOption = False,
    engine: EngineOption = "",
    address: AddressOption = "",
) -> None:
    """Run every stage that is not done yet, from videos to the report."""
    settings = load_config(config, _overrides(overrides, engine, address))
    result = runner.run(settings, out, until=until, from_run=source, redo=redo, console=console())
    if process_rank() == 0:
        _print_result(result)


@app.command(rich_help_panel="Main")
def status(directory: Annotated[Path, typer.Argument(help="directory of a run")]) -> None:
    """Show what is done, what was skipped and why, and the metrics so far."""
    from tempo.cli.status import print_status

    print_status(directory, console())


@app.command(rich_help_panel="Main")
def init(
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path("tempo.toml"),
    model: Annotated[str, typer.Option(help="checkpoint directory or hub name")] = "embedded",
) -> None:
    """Write a commented configuration for a folder of videos."""
    from tempo.cli.init import write_starting_config
    from tempo.model.loading import EMBEDDED

    write_starting_config(videos, out, model)
    if model == EMBEDDED:
        console().print(
            f"warning: the model {model!r} only knows the synthetic world. Give --model a checkpoint for "
            "natural videos"
        )
    command = ["tempo", "run", str(out), "--out", f"out/{videos.resolve().stem or 'run'}"]
    console().print(f"wrote {out}; next: {shlex.join(command)}")


@app.command(rich_help_panel="Main")
def export(
    directory: Annotated[Path, typer.Argument(help="directory of a run that has pairs")],
    format_name: Annotated[str, typer.Option("--format", help="trl, ms-swift, llama-factory or parquet")],
    out: Annotated[Path, typer.Option("--out", help="folder to write; must be empty or not exist")],
) -> None:
    """Write the pairs of a run for another trainer, easy ones first."""
    from tempo.preference.exporting import export_pairs

    if error := run_directory_error(directory):
        raise ValueError(error)
    num_pairs = export_pairs(directory, format_name, out)
    console().print(f"wrote {num_pairs} pairs to {out}; pairs.import_from takes its pairs file back")


@app.command(rich_help_panel="Main")
def audit(
    directory: Annotated[Path, typer.Argument(help="directory of a run that has pairs")],
    no_model: Annotated[
        bool, typer.Option("--no-model", help="without the language model; `tempo run` adds it later")
    ] = False,
) -> None:
    """Measure how well the pairs of a run can be told apart without the video; write audit.json."""
    from tempo.core.progress import Counters
    from tempo.preference.audit import audit_directory
    from tempo.report.report import audit_table

    with Counters(console()) as counters:
        result = audit_directory(
            directory,
            with_model=not no_model,
            progress=lambda done, total: counters.show("audit by the model", done, total),
        )
    console().print(audit_table(result.model_dump(mode="json")))
    console().print(result.verdict)
    if (directory / "report.html").exists():
        again = shlex.join(["tempo", "report", str(directory / "config.toml"), "--out", str(directory)])
        console().print(f"report.html still shows the earlier audit; `{again}` writes it again")


@app.command(rich_help_panel="Main")
def probe(
    model: Annotated[str, typer.Argument(help="checkpoint directory or hub name, or `embedded`")],
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    json_file: Annotated[Path | None, typer.Option("--json", help="file for all results")] = None,
    chart: Annotated[Path | None, typer.Option(help="file for a chart, .png or .svg")] = None,
    text: Annotated[
        Path | None, typer.Option(help="JSONL of id and text, instead of the model's own descriptions")
    ] = None,
    save_text: Annotated[
        Path | None, typer.Option(help="file for the model's descriptions, as --text reads them")
    ] = None,
    describe_with: Annotated[str, typer.Option(metavar="PROMPT", help="prompt for the descriptions")] = "",
    num_videos: Annotated[int, typer.Option(min=1, help="largest number of videos, drawn by the seed")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest description")] = 512,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="section.key=value", help=r"a value of \[model] or \[frames]; may be repeated"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the perturbations and the intervals")] = 0,
) -> None:
    """Measure how much a model notices when a video is reversed, shuffled, cut or frozen; needs no labels."""
    from tempo.cli.probe import ProbeRequest, run_probe
    from tempo.evaluation.probe_report import probe_table
    from tempo.preference.prompts import DESCRIBE

    request = ProbeRequest(
        model=model,
        videos=videos,
        prompt=describe_with or DESCRIBE[1],
        num_videos=num_videos,
        max_new_tokens=max_new_tokens,
        seed=seed,
        overrides=overrides or (),
        text=text,
        json=json_file,
        chart=chart,
        save_text=save_text,
    )
    report = run_probe(request, console())
    console().print(probe_table(report))
    for row in report.left_out:
        console().print(f"left out: {row.id}: {row.reason}: {row.detail}")


def _overrides(given: list[str] | None, engine: str, address: str) -> list[str]:
    """The values of --set, and those of the options that stand for a key."""
    named = {"run.engine": engine, "run.ray_address": address}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value)]


def _add_stage(name: str, description: str) -> None:
    """Adds the subcommand of a stage."""

    @app.command(
        name, help=f"Only this stage: {description}.".replace("[", r"\["), rich_help_panel="Stages, in order"
    )
    def _run_one(
        config: ConfigArgument,
        out: OutOption,
        overrides: SetOption = None,
        redo: RedoOption = False,
        engine: EngineOption = "",
        address: AddressOption = "",
    ) -> None:
        context = Context(load_config(config, _overrides(overrides, engine, address)), out)
        runner.run_stages(context, console(), only=name, redo=redo)


for _stage in STAGES:
    if not _stage.is_auxiliary:
        _add_stage(_stage.name, _stage.description)


def _print_result(result: RunResult) -> None:
    from tempo.cli.status import print_evaluation

    print_evaluation(result.directory, console())
    if result.report:
        console().print(f"report: {result.report}")
    else:
        console().print(f"tempo status {result.directory} shows the run")


@terminable()
def main() -> None:
    """Entry point. Bad input is one message and exit code 2; Ctrl-C and SIGTERM end with what is kept."""
    # Warnings of libraries about names that will change are not for the user.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        # typer returns this code for Ctrl-C.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except ValueError as error:
        fail(str(error))
    except (KeyboardInterrupt, typer.Abort, Terminated) as error:
        stop(error, can_resume=any(name in RESUMABLE for name in sys.argv[1:2]))
    except Exception as error:
        # A wrong command line; typer has its own copy of click's errors.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(2)
        if not (text := machine_fault(error)):
            raise
        fail(text)


if __name__ == "__main__":
    main()
