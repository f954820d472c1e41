"""Time and memory of the main process, by number of videos; the worker of the stage does nothing.

    python benchmarks/scale.py [--records 1000 10000 100000] [--place pool] [--engine ray]

The stage reads invented rows of `shots` (ten shots each, about 14 kB). Each number runs in its own process.

- start: seconds until the first result of a new stage; resume: the same when all videos but the last are done
- ms per video: from the first result to the last one, written to disk
- finish: seconds to sort the rows
- MB: peak resident memory of the main process, with Python and its libraries
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import harness
from rich.console import Console

from tempo.config import Config
from tempo.core.records import Captions, Shot, Shots
from tempo.core.store import RunStore
from tempo.engine.pool import Place
from tempo.engine.types import Context, Worker
from tempo.pipeline.runner import map_stage
from tempo.pipeline.stages import Stage

NUM_SHOTS = 10


def make_worker(context: Context) -> Worker:
    """A worker that answers each record with three empty captions."""
    return lambda batch: [Captions(id=record.id, captions=("", "", "")) for record in batch]


def write_rows(path: Path, count: int) -> None:
    """Writes rows of `shots` with the ids 0 to `count`."""
    number = {"start_frame": 0, "end_frame": 50, "start_seconds": 0.0, "end_seconds": 2.0, "grey_range": 200}
    shot = Shot(**number, descriptor=(0.0123456,) * 128, candidates=tuple(range(5)), sharpness=(0.5,) * 5)
    row = Shots(id="ID", path="a.mp4", num_frames=500, duration_seconds=20.0, shots=(shot,) * NUM_SHOTS)
    before, after = row.model_dump_json().split("ID")
    with path.open("w") as file:
        file.writelines(f"{before}{index:08d}{after}\n" for index in range(count))


def measure(count: int, place: Place, engine: str) -> dict[str, float]:
    """The figures of one line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        plain = {"run": {"engine": engine, "num_workers": 1}, "videos": {"paths": ["unused"]}}
        context, store = Context(Config.model_validate(plain), Path(directory)), RunStore(Path(directory))
        write_rows(store.path("shots"), count)
        harness.forget_peak()
        start, seconds = _run(context, place)
        began = time.perf_counter()
        store.finish("stub", "fingerprint")
        finish = time.perf_counter() - began
        megabytes = harness.peak_megabytes()
        rows = store.path("stub").read_bytes().splitlines(keepends=True)
        store.path("stub").write_bytes(b"".join(rows[:-1]))
        resume, _ = _run(context, place)
    return {"start": start, "resume": resume, "ms": 1e3 * seconds / count, "finish": finish, "MB": megabytes}


def _run(context: Context, place: Place) -> tuple[float, float]:
    """Seconds until the first result of the stage, and from there to the end."""
    reads, seen = (("shots", Shots),), list[float]()
    stage = Stage("stub", "does nothing", reads=reads, worker="scale:make_worker", place=lambda config: place)
    append = RunStore.append

    def timed(self: RunStore, *arguments: Any) -> None:
        seen.append(time.perf_counter())
        append(self, *arguments)

    began, RunStore.append = time.perf_counter(), timed  # type: ignore[method-assign]
    try:
        map_stage(stage, context, Console(quiet=True))
    finally:
        RunStore.append = append  # type: ignore[method-assign]
    return seen[0] - began, time.perf_counter() - seen[0]


def main(given: list[str] | None = None) -> None:
    """Prints the table."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--place", choices=get_args(Place), default="model")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    lines = []
    for count in arguments.records:
        found = harness.in_fresh_process(measure, count, arguments.place, arguments.engine)
        names = {"start": 2, "resume": 2, "ms": 3, "finish": 2, "MB": 0}
        lines.append([f"{count:,}", *(f"{found[name]:.{digits}f}" for name, digits in names.items())])
    print(harness.table(["videos", "start, s", "resume, s", "ms per video", "finish, s", "MB"], lines))


if __name__ == "__main__":
    main()
