"""The command line: one subcommand per stage, and run, status, init."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tempo import pipeline
from tempo.config import load_config
from tempo.stage import Context

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a Video LLM the order of time, with pairs that it makes itself.",
)

INTERRUPTED = 130

ConfigArgument = Annotated[Path, typer.Argument(help="configuration in TOML; `tempo init` writes one")]
OutOption = Annotated[Path, typer.Option("--out", help="directory of the run; made if absent")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="section.key=value", help="override one value")
]
RedoOption = Annotated[
    bool, typer.Option("--redo", help="discard stages made with another config, make them again")
]


def console() -> Console:
    """Where words for people go."""
    # No markup: messages of FFmpeg, file names and ids may hold square brackets.
    return Console(highlight=False, soft_wrap=True, markup=False)


@app.command(rich_help_panel="Main")
def run(
    config: ConfigArgument,
    out: OutOption,
    until: Annotated[str, typer.Option(help="stop after this stage")] = "",
    overrides: SetOption = None,
    redo: RedoOption = False,
) -> None:
    """Do every stage that is not done yet, from videos to the report."""
    context = Context(load_config(config, overrides or []), out)
    pipeline.run_stages(context, console(), until=until, redo=redo)
    _say_where(context)


@app.command(rich_help_panel="Main")
def status(directory: Annotated[Path, typer.Argument(help="directory of a run")]) -> None:
    """Show what is done, what was dropped and why, and the figures so far."""
    from tempo.status import print_status

    print_status(directory, console())


@app.command(rich_help_panel="Main")
def init(
    videos: Annotated[Path, typer.Argument(help="folder of videos, or one video")],
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path("tempo.toml"),
    model: Annotated[str, typer.Option(help="checkpoint directory or hub name")] = "embedded",
) -> None:
    """Write a commented configuration for a folder of videos."""
    from tempo.init import write_starting_config

    write_starting_config(videos, out, model)
    console().print(f"wrote {out}; next: tempo run {out} --out out/{videos.stem or 'run'}")


def _add_stage(name: str, says: str) -> None:
    """Gives a stage its own subcommand."""

    @app.command(
        name, help=f"Only this stage: {says}.".replace("[", r"\["), rich_help_panel="Stages, in order"
    )
    def _run_one(
        config: ConfigArgument, out: OutOption, overrides: SetOption = None, redo: RedoOption = False
    ) -> None:
        context = Context(load_config(config, overrides or []), out)
        pipeline.run_stages(context, console(), only=name, redo=redo)


for _stage in pipeline.STAGES:
    _add_stage(_stage.name, _stage.says)


def _say_where(context: Context) -> None:
    import json

    from tempo.evaluation.table import accuracy_table

    evaluation = context.directory / "evaluation.json"
    if evaluation.exists():
        console().print(accuracy_table(json.loads(evaluation.read_text())))
    report = context.directory / "report.html"
    console().print(
        f"report: {report}" if report.exists() else f"tempo status {context.directory} shows the run"
    )


def main() -> None:
    """Entry point: bad input is one clear message and exit code 2, Ctrl-C says how to go on."""
    # Libraries tell each other about names that will change; the user can do nothing about it.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        # typer turns Ctrl-C into this result.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except ValueError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error: {error}", style="red", markup=False
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        Console(stderr=True).print("\nstopped; the same command goes on where it stopped")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)


def _is_usage_error(error: Exception) -> bool:
    """Whether the command line itself was wrong; typer carries its own copy of click's errors."""
    return hasattr(error, "show") and hasattr(error, "exit_code")


if __name__ == "__main__":
    main()
