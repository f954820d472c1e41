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
from tempo.cli.errors import fail, machine_fault
from tempo.cli.stopping import Terminated, terminable
from tempo.config import load_config
from tempo.core.store import run_directory_error
from tempo.engine.ranks import process_rank
from tempo.engine.types import Context
from tempo.pipeline import stages as pipeline

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a Video LLM the order of time, with pairs that it makes itself.",
)

#: Exit codes of Ctrl-C and of SIGTERM: 128 and the number of the signal.
INTERRUPTED, TERMINATED = 130, 143

#: Commands that keep what is done; the others write at their end.
GO_ON = ("run", *(stage.name for stage in pipeline.STAGES if not stage.aside))

ConfigArgument = Annotated[Path, typer.Argument(help="configuration in TOML; `tempo init` writes one")]
OutOption = Annotated[Path, typer.Option("--out", help="directory of the run; made if absent")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="section.key=value", help="override one value, in TOML; may be repeated"),
]
RedoOption = Annotated[
    bool, typer.Option("--redo", help="discard stages made with another config, make them again")
]

FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="take over what this run made under the same settings"),
]

EngineOption = Annotated[str, typer.Option(help="where stages run: local, or ray (extra `ray`)")]
AddressOption = Annotated[
    str, typer.Option(metavar="host:port", help="Ray cluster to join, or auto; one is started here without")
]


def _show_version(asked: bool) -> None:
    if asked:
        console().print(f"tempo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """What stands before a subcommand."""


def console() -> Console:
    """Where words for people go."""
    # No markup: messages of FFmpeg, file names and ids may hold square brackets.
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
    """Do every stage that is not done yet, from videos to the report."""
    context = Context(load_config(config, _overrides(overrides, engine, address)), out)
    pipeline.run_stages(context, console(), until=until, source=source, redo=redo)
    if process_rank() == 0:
        _say_where(context)


@app.command(rich_help_panel="Main")
def status(directory: Annotated[Path, typer.Argument(help="directory of a run")]) -> None:
    """Show what is done, what was dropped and why, and the figures so far."""
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
    from tempo.model.paths import EMBEDDED

    write_starting_config(videos, out, model)
    if model == EMBEDDED:
        console().print(
            f"warning: the model {model!r} was made for the synthetic world and says nothing sensible about "
            "natural videos; give --model a checkpoint for those"
        )
    command = ["tempo", "run", str(out), "--out", f"out/{videos.resolve().stem or 'run'}"]
    console().print(f"wrote {out}; next: {shlex.join(command)}")


@app.command(rich_help_panel="Main")
def export(
    directory: Annotated[Path, typer.Argument(help="directory of a run that has pairs")],
    format_name: Annotated[str, typer.Option("--format", help="trl, ms-swift, llama-factory or parquet")],
    out: Annotated[Path, typer.Option("--out", help="folder to write; must not exist, or be empty")],
) -> None:
    """Write the pairs of a run for another trainer, easy ones first."""
    from tempo.preference.export import export_pairs

    if error := run_directory_error(directory):
        raise ValueError(error)
    num_pairs = export_pairs(directory, format_name, out)
    console().print(f"wrote {num_pairs} pairs to {out}; pairs.import_from takes its pairs file back")


@app.command(rich_help_panel="Main")
def audit(
    directory: Annotated[Path, typer.Argument(help="directory of a run that has pairs")],
    no_model: Annotated[
        bool, typer.Option("--no-model", help="do not ask the language model; `tempo run` then does")
    ] = False,
) -> None:
    """Ask how well the pairs of a run can be told apart without the video; write audit.json."""
    from tempo.core.progress import Counters
    from tempo.preference.audit import audit_directory
    from tempo.report.audit_table import audit_table

    with Counters(console()) as counters:
        result = audit_directory(
            directory,
            with_model=not no_model,
            progress=lambda done, total: counters.show("audit by the model", done, total),
        )
    console().print(audit_table(result))
    console().print(result["verdict"])
    if (directory / "report.html").exists():
        again = shlex.join(["tempo", "report", str(directory / "config.toml"), "--out", str(directory)])
        console().print(f"report.html shows the audit before this one; `{again}` writes it anew")


@app.command(rich_help_panel="Main")
def probe(
    model: Annotated[str, typer.Argument(help="checkpoint directory or hub name, or `embedded`")],
    videos: Annotated[Path, typer.Argument(help="folder of videos, one video, or directory of a run")],
    json_file: Annotated[Path | None, typer.Option("--json", help="file for all figures")] = None,
    chart: Annotated[Path | None, typer.Option(help="file for a chart, .png or .svg")] = None,
    text: Annotated[
        Path | None, typer.Option(help="JSONL of id and text, in place of the model's own descriptions")
    ] = None,
    save_text: Annotated[
        Path | None, typer.Option(help="file for the model's descriptions, as --text takes them")
    ] = None,
    describe_with: Annotated[str, typer.Option(metavar="PROMPT", help="what the model is asked")] = "",
    num_videos: Annotated[int, typer.Option(min=1, help="at most so many, drawn by the seed")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="of a description")] = 512,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="section.key=value", help="of [model] or [frames]; may be repeated"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the perturbations and the intervals")] = 0,
) -> None:
    """Ask how much a model notices when a video is reversed, shuffled, cut or frozen; needs no labels."""
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
    """What was given with --set, and the options that stand for a key."""
    named = {"run.engine": engine, "run.ray_address": address}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value)]


def _add_stage(name: str, says: str) -> None:
    """Gives a stage its own subcommand."""

    @app.command(
        name, help=f"Only this stage: {says}.".replace("[", r"\["), rich_help_panel="Stages, in order"
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
        pipeline.run_stages(context, console(), only=name, redo=redo)


for _stage in pipeline.STAGES:
    if not _stage.aside:
        _add_stage(_stage.name, _stage.says)


def _say_where(context: Context) -> None:
    import json

    from tempo.evaluation.benchmark import accuracy_table

    evaluation = context.directory / "evaluation.json"
    if evaluation.exists():
        console().print(accuracy_table(json.loads(evaluation.read_text())))
    report = context.directory / "report.html"
    console().print(
        f"report: {report}" if report.exists() else f"tempo status {context.directory} shows the run"
    )


@terminable()
def main() -> None:
    """Entry point: bad input is one clear message and exit code 2, Ctrl-C and `kill` say what is kept."""
    # Libraries tell each other about names that will change; the user can do nothing about it.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        # typer turns Ctrl-C into this result.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except ValueError as error:
        fail(str(error))
    except (KeyboardInterrupt, typer.Abort, Terminated) as stop:
        goes_on = any(name in GO_ON for name in sys.argv[1:2])
        kept = "the same command goes on where it stopped" if goes_on else "nothing was written"
        Console(stderr=True).print(f"\nstopped; {kept}")
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    except Exception as error:
        # The command line itself was wrong; typer carries its own copy of click's errors.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(2)
        if not (text := machine_fault(error)):
            raise
        fail(text)


if __name__ == "__main__":
    main()
