"""Time and memory of the main process, by number of videos.

    python benchmarks/scale.py [--records 1000 20000 200000] [--place pool] [--engine ray]

Each number runs in its own process. First, a stage whose worker does nothing reads made-up rows of `shots`
(ten shots each, about 14 kB):

- start: seconds until the first result of a new stage; resume: the same when all videos but the last are done
- ms per video: from the first result to the last one, written to disk
- finish: seconds to sort the rows
- MB: peak resident memory of the main process above its start

Then a whole run is made up, in which a quarter of the videos is kept, with 8 pairs each (texts of 1.2 kB),
and 7 records are skipped for 4 videos: seconds and MB of `tempo status`, of the report with the model cards,
and of the first page of `tempo view`.

Rows of out/bench.json compare the figures with the limits of LIMITS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import harness
import numpy as np
from rich.console import Console

from tempo.config import Config
from tempo.core.records import Captions, Clip, Clips, Pair, Record, Shot, Shots, Skipped, Video
from tempo.core.store import RunStore, write_config
from tempo.engine.pool import Place
from tempo.engine.types import Context, Worker
from tempo.pipeline.runner import map_stage
from tempo.pipeline.stages import Stage

NUM_SHOTS, NUM_CLIPS, NUM_PAIRS = 10, 8, 8

#: Figures of the table with their digits and the most that they may be.
LIMITS = {
    "start, s": (2, 30.0),
    "resume, s": (2, 30.0),
    "ms per video": (3, 0.5),
    "finish, s": (2, 30.0),
    "MB": (0, 1000.0),
    "status, s": (2, 3.0),
    "report, s": (2, 20.0),
    "report, MB": (0, 1000.0),
    "view, s": (2, 60.0),
    "view, MB": (0, 1000.0),
}


def make_worker(context: Context) -> Worker:
    """A worker that answers each record with three empty captions."""
    return lambda batch: [Captions(id=record.id, captions=("", "", "")) for record in batch]


def write_rows(path: Path, row: Record, names: list[str]) -> None:
    """Writes copies of a row with these names in place of ID."""
    before, *others = row.model_dump_json().split("ID")
    with path.open("a") as file:
        file.writelines(name.join((before, *others)) + "\n" for name in names)


def shots_row() -> Shots:
    """A row of `shots`."""
    number = {"start_frame": 0, "end_frame": 50, "start_seconds": 0.0, "end_seconds": 2.0, "grey_range": 200}
    shot = Shot(**number, descriptor=(0.0123456,) * 128, candidates=tuple(range(5)), sharpness=(0.5,) * 5)
    return Shots(id="ID", path="a.mp4", num_frames=500, duration_seconds=20.0, shots=(shot,) * NUM_SHOTS)


def write_run(store: RunStore, count: int) -> None:
    """Writes the rows of a run of `count` videos up to its pairs, and the frames of some videos."""
    from tempo.video.frames import FrameStore, encode_jpeg

    names = [f"{index:08d}" for index in range(count)]
    kept, lost = names[: count // 4], names[count // 4 :]
    facts = {"duration_seconds": 120.0, "width": 1280, "height": 720, "fps": 30.0, "codec": "h264"}
    spans = [{"start_seconds": 15.0 * i, "end_seconds": 15.0 * i + 15} for i in range(NUM_CLIPS)]
    shared = {"first_shot": 0, "num_shots": 1, "key_frames": (1, 2)}
    clips = tuple(Clip(group=i, **shared, **spans[i]) for i in range(NUM_CLIPS))
    text = "A red circle moves to the left, and then it stops. " * 24
    fault = {"stage": "clips", "reason": "too few shots", "detail": "2 shots"}
    write_rows(store.path("videos"), Video(id="ID", path="/videos/ID.mp4", **facts), names)
    write_rows(
        store.path("clips"), Clips(id="ID", path="/videos/ID.mp4", duration_seconds=120.0, clips=clips), kept
    )
    write_rows(store.path("captions"), Captions(id="ID", captions=(text[:400],) * NUM_CLIPS), kept)
    write_rows(store.path("skipped"), Skipped(id="ID", **fault), lost)
    for number in range(NUM_PAIRS):
        level, order = 2 ** (1 + number % 4), tuple(reversed(range(NUM_CLIPS)))
        kind, name = ("reverse", "shuffle")[number // 4], f"ID/{number}"
        facts = {"prompt": "Describe the video.", "num_clips": NUM_CLIPS, "order": order, "kind": kind}
        pair = Pair(
            id=name, video_id="ID", video="/videos/ID.mp4", chosen=text, rejected=text, level=level, **facts
        )
        write_rows(store.path("pairs"), pair, kept)
    for number in range(4):
        fault = {"stage": "pairs", "reason": "length gives it away", "detail": "no other pair"}
        write_rows(store.path("skipped"), Skipped(id=f"ID/{NUM_PAIRS + number}", **fault), kept)
    for stage in ("videos", "clips", "captions", "pairs"):
        store.begin(stage, "fingerprint")
        store.finish(stage, "fingerprint")
    jpeg = encode_jpeg(np.zeros((90, 160, 3), np.uint8), 95)
    for name in kept[:50]:
        frames = FrameStore(store.directory / "frames")
        frames.write(name, [jpeg] * 120, seconds=range(120), fps=1.0, key_frames=[jpeg] * 2 * NUM_CLIPS)
    write_config(store.directory, {})


def measure_reading(count: int) -> dict[str, float]:
    """Seconds and MB of what reads a whole run."""
    with tempfile.TemporaryDirectory() as directory:
        store = RunStore(Path(directory))
        write_run(store, count)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tempo", "status", directory], check=True, capture_output=True)
        found = {"status, s": time.perf_counter() - began}
        for name, function in (("report", read_report), ("view", read_view)):
            found[f"{name}, s"], found[f"{name}, MB"] = harness.in_fresh_process(
                in_memory, function, store.directory
            )
    return found


def in_memory(function: Callable[[Path], object], directory: Path) -> tuple[float, float]:
    """Seconds and peak megabytes above the start of a function."""
    import tempo.report.report
    import tempo.report.view_server  # noqa: F401 - not counted

    start, began = harness.forget_peak(), time.perf_counter()
    function(directory)
    return time.perf_counter() - began, harness.peak_megabytes() - start


def read_report(directory: Path) -> None:
    """What the stage `report` does."""
    from tempo.core.files import write_json
    from tempo.report.cards import write_cards
    from tempo.report.report import write_report

    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}}), directory)
    (directory / "model").mkdir()
    write_json(directory / "environment.json", {"versions": {}})
    write_cards(context)
    write_report(context)


def read_view(directory: Path) -> None:
    """The first page of `tempo view`, and one search."""
    from tempo.report.view import RunView

    view = RunView(directory)
    view.detail(view.select({})["rows"][0]["id"])


def measure(count: int, place: Place, engine: str) -> dict[str, float]:
    """The figures of one line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        plain = {"run": {"engine": engine, "num_workers": 1}, "videos": {"paths": ["unused"]}}
        context, store = Context(Config.model_validate(plain), Path(directory)), RunStore(Path(directory))
        write_rows(store.path("shots"), shots_row(), [f"{index:08d}" for index in range(count)])
        before = harness.forget_peak()
        start, seconds = _run(context, place)
        began = time.perf_counter()
        store.finish("stub", "fingerprint")
        finish = time.perf_counter() - began
        megabytes = harness.peak_megabytes() - before
        rows = store.path("stub").read_bytes().splitlines(keepends=True)
        store.path("stub").write_bytes(b"".join(rows[:-1]))
        resume, _ = _run(context, place)
    figures = (start, resume, 1e3 * seconds / count, finish, megabytes)
    return dict(zip(LIMITS, figures, strict=False))


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
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--place", choices=get_args(Place), default="model")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    # The processes of `tempo status` find this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    lines, rows = [], []
    for count in arguments.records:
        found = harness.in_fresh_process(measure, count, arguments.place, arguments.engine)
        if arguments.engine == "local":
            found |= measure_reading(count)
        names = {name: LIMITS[name] for name in LIMITS if name in found}
        lines.append([f"{count:,}", *(f"{found[name]:.{digits}f}" for name, (digits, _) in names.items())])
        for name, (_, limit) in names.items():
            setting = f"{count:,} videos, {arguments.engine}: {name}"
            ours, ratio = round(found[name], 4), round(limit / max(found[name], 1e-3), 2)
            shared = {"peer_name": "limit", "unit": name.split()[-1], "peer": limit}
            rows.append(harness.Row(benchmark="scale", setting=setting, ours=ours, ratio=ratio, **shared))
    print(harness.table(["videos", *names], lines))
    harness.add_rows(rows)


if __name__ == "__main__":
    main()
