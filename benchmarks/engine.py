"""The cost of the engine: two Ray workers compared with one, and the time per record for many records.

    python benchmarks/engine.py [--videos 96] [--rounds 3] [--records 10000]

- workers: the stage `shots` on rendered videos, with two workers of a running Ray and with one, in turn. Each
  worker is bound to its own core, as a decoder has one thread.
- overhead: time per record in a pool of one process, whose worker does nothing, without the start of the
  process. The goal is 1 ms.

For the number of videos, see benchmarks/scale.py.

Rows go into out/bench.json, except with --trial.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import ingest
from harness import Row

from tempo.config import Config, RunConfig
from tempo.core.records import Captions, Record, Video
from tempo.engine import pool as engine
from tempo.engine import ray as ray_engine
from tempo.engine.types import Context, Worker
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


def _video(path: Path) -> Video:
    facts = {"duration_seconds": 6.0, "width": 640, "height": 360, "fps": 25.0, "codec": "h264"}
    return Video(id=video_id(path), path=str(path), **facts)


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


def main(given: list[str] | None = None) -> None:
    """Prints the table and writes the rows."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--trial", action="store_true", help="write no rows")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    count, rounds = arguments.records, arguments.rounds
    overhead = statistics.median(overhead_seconds(count) for _ in range(rounds))
    rows = [
        compare_costs("engine_overhead", f"pool, {count} records", "the goal", overhead, GOAL_SECONDS),
        compare_workers(arguments.videos, rounds),
    ]
    if not arguments.trial:
        harness.add_rows(rows)
    print(harness.rows_table(rows))


if __name__ == "__main__":
    main()
