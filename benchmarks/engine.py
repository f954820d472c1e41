"""The cost of the engine: two Ray workers compared with one, and the time per record for many records.

    python benchmarks/engine.py [--videos 96] [--rounds 3] [--records 100 1000 10000]

- workers: the stage `shots` on rendered videos, with two workers of a running Ray and with one, in turn. Each
  worker is bound to its own core, as a decoder has one thread.
- overhead: time per record in a pool of one process, whose worker does nothing, without the start of the
  process. The goal is 1 ms.
- scale: time per video of a whole stage, from reading its input to sorted output on disk, for growing numbers
  of videos. The worker does nothing and is in this process. Each number is compared with the first.

Rows go into out/bench.json, except with --trial.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import ingest
from harness import Row
from rich.console import Console

from tempo.config import Config, RunConfig
from tempo.core.records import Captions, Record, Video
from tempo.core.store import RunStore
from tempo.engine import pool as engine
from tempo.engine import ray as ray_engine
from tempo.engine.types import Context, Worker
from tempo.pipeline.runner import map_stage
from tempo.pipeline.stages import Stage
from tempo.video import shots
from tempo.video.find import find_videos, video_id

GOAL_SECONDS = 1e-3


def make_worker(context: Context) -> Worker:
    """A worker that answers each record with three empty captions."""
    return lambda batch: [Captions(id=record.id, captions=("", "", "")) for record in batch]


def make_pinned_worker(context: Context) -> Worker:
    """The worker of `shots` on a separate core. It is ready when the workers on all cores are ready."""
    for core in sorted(os.sched_getaffinity(0)):
        try:
            (context.directory / f"core-{core}").mkdir()
        except FileExistsError:
            continue
        os.sched_setaffinity(0, {core})
        while len(list(context.directory.glob("core-*"))) < context.config.run.num_workers:
            time.sleep(0.01)
        return shots.make_worker(context)
    raise ValueError("there are more workers than cores; lower run.num_workers")


def make_context(directory: Path, run: RunConfig) -> Context:
    """The context of a run with this section."""
    return Context(Config.model_validate({"run": run, "videos": {"paths": ["unused"]}}), directory)


def shots_seconds(folder: Path, num_workers: int) -> float:
    """Seconds that Ray workers take for all videos of a folder, after the first result."""
    run = RunConfig(engine="ray", num_workers=num_workers)
    videos = [
        _video(path) for path in find_videos([folder], Config.model_fields["videos"].default.extensions)
    ]
    with tempfile.TemporaryDirectory() as directory:
        context = make_context(Path(directory), run)
        batches = [[video] for video in videos]
        worker = "engine:make_pinned_worker"
        results = engine.map_batches(worker, context, batches, place="pool", stage="shots")
        return _seconds_after_first(results)


def overhead_seconds(num_records: int) -> float:
    """Seconds per record in the pool."""
    batches = [[Record(id=str(number))] for number in range(num_records)]
    with tempfile.TemporaryDirectory() as directory:
        context = make_context(Path(directory), RunConfig(num_workers=1))
        results = engine.map_batches("engine:make_worker", context, batches, place="pool", stage="captions")
        return _seconds_after_first(results) / (num_records - 1)


def _seconds_after_first(results: Iterator[Any]) -> float:
    next(results)
    start = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - start


def stage_seconds(num_videos: int) -> float:
    """Seconds per video of a stage whose worker does nothing."""
    with tempfile.TemporaryDirectory() as directory:
        context, store = make_context(Path(directory), RunConfig()), RunStore(Path(directory))
        store.append("videos", [_row(str(number), "a.mp4") for number in range(num_videos)])
        start = time.perf_counter()
        stage = Stage(
            "engine",
            "a worker that costs nothing",
            reads=(("videos", Video),),
            worker="engine:make_worker",
            place=lambda config: "model",
        )
        map_stage(stage, context, Console(quiet=True))
        store.finish("engine", "fingerprint")
        return (time.perf_counter() - start) / num_videos


def _video(path: Path) -> Video:
    return _row(video_id(path), str(path))


def _row(video: str, path: str) -> Video:
    return Video(id=video, path=path, duration_seconds=6.0, width=640, height=360, fps=25.0, codec="h264")


def compare_workers(num_videos: int, rounds: int) -> Row:
    """Videos per second with two workers and with one."""
    seconds: dict[int, list[float]] = {2: [], 1: []}
    run = RunConfig(engine="ray", num_workers=2)
    with tempfile.TemporaryDirectory() as folder:
        ray_engine.connect(run)
        ingest.render(Path(folder), num_videos)
        for _ in range(rounds):
            for num_workers, seen in seconds.items():
                seen.append(shots_seconds(Path(folder), num_workers))
    ours, peer = (statistics.median(seconds[num_workers]) for num_workers in (2, 1))
    setting = f"stage shots on Ray, 2 workers, {num_videos} rendered videos"
    return _row_of("engine_workers", setting, num_videos / ours, num_videos / peer, "1 worker", "videos/s")


def compare_costs(name: str, setting: str, peer_name: str, ours: float, peer: float) -> Row:
    """Milliseconds per record. The ratio is above 1 if ours takes less time."""
    return _row_of(name, setting, 1e3 * ours, 1e3 * peer, peer_name, "ms/record", peer / ours)


def _row_of(
    name: str, setting: str, ours: float, peer: float, peer_name: str, unit: str, ratio: float | None = None
) -> Row:
    values = {"ours": round(ours, 4), "peer": round(peer, 4), "ratio": round(ratio or ours / peer, 3)}
    return Row(benchmark=name, setting=setting, peer_name=peer_name, unit=unit, **values)


def median(measure: Callable[[int], float], size: int, rounds: int) -> float:
    """The median over the rounds."""
    return statistics.median(measure(size) for _ in range(rounds))


def main(given: list[str] | None = None) -> None:
    """Prints the table and writes the rows."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--trial", action="store_true", help="write no rows")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    most, rounds = max(arguments.records), arguments.rounds
    first, *more = (median(stage_seconds, size, rounds) for size in arguments.records)
    overhead = median(overhead_seconds, most, rounds)
    rows = [
        compare_costs("engine_overhead", f"pool, {most} records", "the goal", overhead, GOAL_SECONDS),
        *(
            compare_costs(
                "engine_scale", f"stub stage, {size} videos", f"{arguments.records[0]} videos", seconds, first
            )
            for size, seconds in zip(arguments.records[1:], more, strict=True)
        ),
        compare_workers(arguments.videos, rounds),
    ]
    if not arguments.trial:
        harness.add_rows(rows)
    print(harness.rows_table(rows))


if __name__ == "__main__":
    main()
