"""`tempo plan`: the tokens, memory, time and disk space of a run, and problems of this machine."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter
from rich.table import Table

from tempo.cli.terminal import ConfigArgument, SetOption, console
from tempo.config import load_config

#: The parts of the memory of a step.
PARTS = ("weights", "adapters", "reference", "gradients", "optimizer", "cache", "activations")


def plan(
    config: ConfigArgument,
    out: Annotated[
        Path, typer.Option("--out", help="run directory, whose disk is checked for free space")
    ] = Path(),
    device_memory: Annotated[
        str, typer.Option(help="plan for a GPU with this memory, such as 80GB; default: this machine")
    ] = "",
    overrides: SetOption = None,
) -> None:
    """Estimate the tokens, memory, time and disk space of a run, without loading weights."""
    from tempo.pipeline.plan import make_plan

    try:
        size = TypeAdapter(ByteSize).validate_python(device_memory or 0)
    except ValueError:
        size = ByteSize(1)
    # A number without a unit means bytes.
    if 0 < size < 10**6:
        raise ValueError(f"--device-memory {device_memory!r}: write it as 80GB or 80GiB")
    found = make_plan(load_config(config, overrides or ()), device_bytes=size)
    show, rates = console().print, found.rates
    num_seconds = sum(video.duration_seconds for video in found.videos)
    longest, median = found.longest.lengths[0], found.median.lengths[0]
    show(
        f"videos: {len(found.videos)}, {num_seconds / 3600:.1f} h; about {found.num_kept} of them, or "
        f"segments of them, are kept ({rates.kept_per_video:.0%}; {rates.source})\n"
        f"tokens of video and prompt: {longest} at most, median {median}\n"
        f"device memory: {found.device_bytes / 1e9:.1f} GB"
    )
    table = Table(title="peak memory of the longest batch in GB, and time", title_justify="left")
    for heading in ("step", "tokens", "peak", "largest parts", "time"):
        table.add_column(heading, justify="left" if heading in ("step", "largest parts") else "right")
    table.add_row("shots, clips", "", "", "", _duration(found.decoding_seconds))
    steps = [*found.steps()]
    for step in steps:
        sizes = sorted(((getattr(step.cost, f"{part}_bytes"), part) for part in PARTS), reverse=True)
        largest = ", ".join(f"{part} {size / 1e9:.2g}" for size, part in sizes[:2])
        peak = f"{step.cost.peak_bytes / 1e9:.3g}"
        table.add_row(step.name, str(step.num_tokens), peak, largest, _duration(step.seconds))
    show(table)
    needed = found.disk_bytes(steps)
    # The directory need not exist yet.
    folder = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    files = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in needed.items())
    show(f"disk in GB: {files}; free {free / 1e9:.1f}")
    for step in steps:
        if step.advice:
            show(f"{step.name} does not fit. It fits with: {step.advice}")
    if sum(needed.values()) > free:
        show("problem: the disk has too little free space. Choose another --out")
    for line in found.problems:
        show(f"problem: {line}")


def _duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
