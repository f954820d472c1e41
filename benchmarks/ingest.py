"""From file to clips: the two passes compared with pure decoding, and with the method of the released code.

    python benchmarks/ingest.py [--videos ../shared/videos] [--rendered 100] [--rounds 3]

Every form works on the same files in the same run, in a process and on a core of its own, the forms in turn:

- tempo: stages `videos`, `shots` (PySceneDetect) and `clips`, from the path to the key frames on disk. - pure
decode: every frame decoded and discarded. - released: the released method, implemented directly: three
decodes (cuts; middle frames; key frames), each with all frames of the video at full size in memory, with the
same detector and descriptor. Files whose frames would take more than --max-gigabytes are left out of this
comparison. - frame store: reading a video's training frames back, compared with decoding and sampling the
file again.

The peak of memory is the resident size above that of the idle process. Rows go into out/bench.json and use
wall time; processor time, which depends less on other processes, is printed too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import harness
import numpy as np
from harness import Measured, Row, Summary

from tempo.config import ClipsConfig, Config, FramesConfig, ShotsConfig
from tempo.core.records import Clips, Shots
from tempo.engine.types import Context, SkipRecord
from tempo.video import clips, find, selection, shots
from tempo.video.decode import decode
from tempo.video.detectors import make_detector
from tempo.video.frames import FrameStore, sample_video
from tempo.video.shots import ANALYSIS_PIXELS, describe, measure_sharpness

#: With the rules of the released code, so that the compared forms keep the same videos.
CLIPS = {"source": "shots", "segments": False}
CONFIG = Config.model_validate({"videos": {"paths": ["unused"]}, "clips": CLIPS})

#: Colors of the rendered places, different enough for the descriptor.
COLOURS = np.array([[0, 0, 0], [160, 0, 0], [0, 160, 0], [0, 0, 160], [160, 160, 0], [0, 160, 160]], np.uint8)

Forms: TypeAlias = dict[str, Callable[[list["File"]], "Timed"]]


@dataclass(frozen=True)
class File:
    """A video that can be decoded: its path, its length, and the memory of its frames at full size."""

    path: str
    id: str
    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Timed(Measured):
    """Measurements with the seconds of processor time."""

    cpu_seconds: float


def examine(path: Path) -> File | None:
    """Length and size of a file, found by decoding it; None if it cannot be decoded."""
    try:
        (last,) = deque(decode(path), maxlen=1)
    except SkipRecord:
        return None
    width, height = last.size
    gigabytes = 3 * width * height * (last.index + 1) / 1e9
    return File(str(path), find.video_id(path), last.end_seconds, gigabytes)


def measure(work: Callable[[list[File], Path], object], files: list[File]) -> Timed:
    """Seconds and peak of `work` over all files, on one core, after a warm-up on the shortest."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as cold:
        work([min(files, key=lambda file: file.seconds)], Path(warm))
        before = harness.forget_peak()
        start, start_cpu = time.perf_counter(), time.process_time()
        work(files, Path(cold))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak_megabytes = max(harness.peak_megabytes() - before, 1.0)
    return Timed((seconds,), peak_megabytes, (), np.zeros(1), cpu_seconds)


def tempo_way(files: list[File]) -> Timed:
    """The stages from `videos` to `clips`."""
    return measure(_tempo_way, files)


def _tempo_way(files: list[File], directory: Path) -> int:
    """Returns how many files become clips; no key frames are written for the others."""
    context = Context(CONFIG, directory)
    identify, find_shots, cut = (stage.make_worker(context) for stage in (find, shots, clips))
    num_taken = 0
    for file in files:
        (row,) = find_shots(identify([find.VideoFile(id=file.path)]))
        assert isinstance(row, Shots), row
        num_taken += isinstance(cut([row])[0], Clips)
    return num_taken


def count_taken(files: list[File]) -> int:
    """How many of the files become clips."""
    with tempfile.TemporaryDirectory() as directory:
        return _tempo_way(files, Path(directory))


def pure_decode(files: list[File]) -> Timed:
    """Every frame of every file, decoded and discarded."""
    return measure(lambda files, _: [sum(1 for _ in decode(file.path)) for file in files], files)


def released_way(files: list[File]) -> Timed:
    """Three decodes, frames at full size in memory."""
    return measure(lambda files, _: [_released_way(file.path) for file in files], files)


def _released_way(path: str) -> None:
    starts_seconds, frames = _all_frames(path)
    bounds = _shots(frames, starts_seconds)
    del frames
    _, frames = _all_frames(path)
    groups = selection.group_shots(
        [describe(_shrunk(frames[(start + end) // 2], (64, 36))) for start, end in bounds],
        ClipsConfig().similarity,
    )
    del frames
    _, frames = _all_frames(path)
    for start, end in _runs(bounds, groups):
        sharpness = [measure_sharpness(frame) for frame in frames[start:end]]
        selection.choose_key_frames(end - start, dict(enumerate(sharpness)))


def _all_frames(path: str) -> tuple[list[float], list[np.ndarray]]:
    starts_seconds, frames = [], []
    for frame in decode(path):
        starts_seconds.append(frame.start_seconds)
        frames.append(frame.decoded.to_ndarray(format="rgb24"))
    return starts_seconds, frames


def _shots(frames: list[np.ndarray], starts_seconds: list[float]) -> list[tuple[int, int]]:
    detector, config = make_detector(ShotsConfig()), ShotsConfig()
    scale = min(1.0, ANALYSIS_PIXELS / max(frames[0].shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in frames[0].shape[1::-1])
    cuts = [0]
    for frame, seconds in zip(frames, starts_seconds, strict=True):
        cuts += detector.add(_shrunk(frame, size), seconds)
    cuts += [*detector.add(None, 0.0), len(frames)]
    return [(a, b) for a, b in itertools.pairwise(cuts) if b - a >= config.min_frames] or [(0, len(frames))]


def _runs(bounds: list[tuple[int, int]], groups: list[int]) -> list[tuple[int, int]]:
    """First frame and frame after the last of each clip."""
    runs: list[tuple[int, int]] = []
    for index, (start, end) in enumerate(bounds):
        joins = index > 0 and groups[index] == groups[index - 1]
        runs = [*runs[:-1], (runs[-1][0], end)] if joins else [*runs, (start, end)]
    return runs


def _shrunk(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def store_read(files: list[File]) -> tuple[Measured, Measured]:
    """Reading the training frames of every file from the store, and decoding and sampling it again."""
    with tempfile.TemporaryDirectory() as directory:
        store = FrameStore(Path(directory))
        for file in files:
            sampled = sample_video(file.path, FramesConfig())
            store.write(file.id, sampled.jpegs, seconds=sampled.seconds, fps=sampled.fps)
        read = measure(lambda files, _: [store.read(file.id) for file in files], files)
        again = measure(lambda files, _: [sample_video(file.path, FramesConfig()) for file in files], files)
    return read, again


def render(folder: Path, count: int) -> None:
    """Renders `count` H.264 videos of 640x360 with moving objects in six places, each shown for a second."""
    for number in range(count):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number:03}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for colour in rng.permutation(COLOURS):
                blocks = rng.integers(0, 128, (9, 16, 3), dtype=np.uint8)
                grain = rng.integers(0, 24, (360, 640, 1), dtype=np.uint8)
                place = np.kron(blocks // 2 + colour, np.ones((40, 40, 1), np.uint8)) + grain
                for step in range(25):
                    image = np.roll(place, 2 * step, axis=1)
                    image[100:180, 12 * step : 12 * step + 80] = 250
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())


def make_row(setting: str, peer_name: str, files: list[File], ours: Summary, peer: Summary) -> Row:
    """Seconds of video per second, ours and the peer's."""
    length = sum(file.seconds for file in files)
    return Row(
        benchmark="ingest",
        setting=f"{setting}, {len(files)} files, {length:.0f} s",
        ours=round(length / ours.seconds, 2),
        peer=round(length / peer.seconds, 2),
        peer_name=peer_name,
        unit="seconds of video/s",
        ratio=round(peer.seconds / ours.seconds, 3),
        peak_memory_ratio=round(ours.peak_megabytes / peer.peak_megabytes, 3),
    )


def compare(setting: str, files: list[File], *, rounds: int, max_gigabytes: float) -> list[Row]:
    """All rows of one set of files."""
    print(f"{setting}: {harness.in_fresh_process(count_taken, files)} of {len(files)} files become clips")
    forms = {"tempo": tempo_way, "pure decode": pure_decode}
    ours, peer = in_turn(setting, forms, files, rounds=rounds)
    rows = [make_row(setting, "pure decode", files, ours, peer)]
    small = [file for file in files if file.gigabytes <= max_gigabytes]
    ours, peer = in_turn(setting, {"tempo": tempo_way, "released": released_way}, small, rounds=rounds)
    rows.append(make_row(setting, "released code's way", small, ours, peer))
    pairs = [harness.in_fresh_process(store_read, files) for _ in range(rounds)]
    read, again = (harness.summarise([pair[index] for pair in pairs]) for index in (0, 1))
    return [*rows, make_row(f"{setting}, training frames", "decoding again", files, read, again)]


def in_turn(setting: str, forms: Forms, files: list[File], *, rounds: int) -> list[Summary]:
    """Measures each form in a separate process, `rounds` times in turn; prints time and memory."""
    seen: dict[str, list[Timed]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            seen[name].append(harness.in_fresh_process(form, files))
    for name, timed in seen.items():
        summary = harness.summarise(timed)
        cpu_seconds = statistics.median(one.cpu_seconds for one in timed)
        took = f"{summary.seconds:.2f} s, {cpu_seconds:.2f} s of processor, {summary.peak_megabytes:.0f} MB"
        print(f"{setting}, {len(files)} files, {name}: {took}")
    return [harness.summarise(timed) for timed in seen.values()]


def main() -> None:
    """Prints the table and writes the rows."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--videos", type=Path, default=harness.OUT.parents[1] / "shared" / "videos")
    parser.add_argument("--rendered", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=1e9, help="leave out longer videos")
    parser.add_argument("--max-gigabytes", type=float, default=3.0)
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder), arguments.rendered)
        for setting, where in (("real", arguments.videos), ("rendered", Path(folder))):
            found = find.find_videos([where], CONFIG.videos.extensions) if any(where.glob("*")) else []
            files = [file for path in found if (file := examine(path))]
            files = [file for file in files if file.seconds <= arguments.max_seconds]
            limits = {"rounds": arguments.rounds, "max_gigabytes": arguments.max_gigabytes}
            rows += compare(setting, files, **limits) if files else []
    harness.add_rows(rows)
    print(harness.rows_table(rows))


if __name__ == "__main__":
    main()
