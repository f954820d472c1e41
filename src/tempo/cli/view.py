"""`tempo view`: a local page with the videos and pairs of a run."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from tempo.cli.terminal import RunArgument, Terminated, console


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
