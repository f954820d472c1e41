"""The embedded world on disk: files that fit together, made once, the same each time."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from tempo.config import SyntheticConfig
from tempo.core.records import Instruction
from tempo.evaluation.evaluate import read_samples
from tempo.synthetic.dataset import make_dataset
from tempo.synthetic.world import Story

SMALL = SyntheticConfig(num_videos=5, num_held_out=2, min_shots=4, max_shots=5, plain_share=0.4)


def make(directory, *, num_workers=1):
    """Writes a small world and returns how often progress was reported."""
    calls = []
    make_dataset(SMALL, directory, seed=0, num_workers=num_workers, progress=lambda: calls.append(None))
    return len(calls)


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def rows(path, record):
    return [record.model_validate_json(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic")
    assert make(directory) == 5 + 3 * 2
    return directory


def test_stories_have_the_shots_asked_for_and_rows_name_their_videos(world):
    train, held_out = (rows(world / folder / "scripts.jsonl", Story) for folder in ("videos", "held_out"))
    for folder, stories in (("videos", train), ("held_out", held_out)):
        assert sorted(s.id for s in stories) == sorted(p.stem for p in (world / folder).glob("*.mp4"))
    # Plain stories come last.
    assert [len(story.events) in (4, 5) for story in train] == [True] * 3 + [False] * 2
    assert [len(story.events) in (4, 5) for story in held_out] == [True] * 6
    assert not {s.events for s in train} & {s.events for s in held_out}

    instructions = rows(world / "instructions.jsonl", Instruction)
    assert len({row.id for row in instructions}) == len(instructions)
    assert {row.video for row in instructions} == {
        str(p.relative_to(world)) for p in world.glob("videos/*.mp4")
    }
    samples = read_samples(world / "held_out" / "benchmark.jsonl").rows.values()
    assert {sample.video for sample in samples} == {p.name for p in world.glob("held_out/*.mp4")}


def test_videos_that_exist_are_kept_and_the_rest_is_made_with_equal_bytes(world, tmp_path):
    for name, data in contents(world).items():
        if name.endswith(".mp4") and "00001" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    make(tmp_path, num_workers=2)
    assert contents(tmp_path) == contents(world)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_rendering_ends_with_the_process_that_started_it(tmp_path):
    code = (
        "from tempo.synthetic.dataset import *; config = SyntheticConfig(num_videos=2000, num_held_out=1); "
    )
    code += "make_dataset(config, Path('out'), seed=0, num_workers=1, progress=lambda: None)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("out/videos/*.mp4")):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    left = psutil.wait_procs(workers, timeout=10)[1]
    for worker in left:
        worker.kill()
    assert workers
    assert not left
