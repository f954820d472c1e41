"""The embedded world on disk: files that fit together, made once, the same each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tempo.config import SyntheticConfig
from tempo.core.records import Instruction
from tempo.evaluation.benchmark import read_samples
from tempo.synthetic.dataset import make_dataset
from tempo.synthetic.world import Story, make_story

SMALL = SyntheticConfig(num_videos=5, num_held_out=2, min_shots=4, max_shots=5, plain_share=0.4)
PATIENCE_SECONDS = 60.0


def make(directory, config=SMALL, *, seed=0, num_workers=1):
    """Writes a small world and returns how often progress was reported."""
    calls = []
    make_dataset(config, directory, seed=seed, num_workers=num_workers, progress=lambda: calls.append(None))
    return len(calls)


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def stories(path):
    return [Story.model_validate_json(line) for line in path.read_text().splitlines()]


def instructions(directory):
    lines = (directory / "instructions.jsonl").read_text().splitlines()
    return [Instruction.model_validate_json(line) for line in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic")
    assert make(directory) == 5 + 2 * 2
    return directory


def test_every_story_has_its_video_and_every_video_its_story(world):
    for folder, count in (("videos", 5), ("held_out", 4)):
        told = [story.id for story in stories(world / folder / "scripts.jsonl")]
        assert sorted(told) == sorted(path.stem for path in (world / folder).glob("*.mp4"))
        assert len(told) == count


def test_nothing_else_is_left_behind(world):
    endings = {path.name.partition(".")[2] for path in world.rglob("*") if path.is_file()}
    assert endings == {"mp4", "jsonl"}


def test_stories_have_the_shots_asked_for_and_the_plain_ones_come_last(world):
    counts = [len(story.events) for story in stories(world / "videos" / "scripts.jsonl")]
    assert all(count in (4, 5) for count in counts[:3])
    assert all(count <= 3 for count in counts[3:])
    assert all(len(story.events) in (4, 5) for story in stories(world / "held_out" / "scripts.jsonl"))


def test_training_and_held_out_stories_share_neither_id_nor_content(world):
    train = stories(world / "videos" / "scripts.jsonl")
    held_out = stories(world / "held_out" / "scripts.jsonl")
    assert not {s.id for s in train} & {s.id for s in held_out}
    assert not {s.events for s in train} & {s.events for s in held_out}
    assert not {p.read_bytes() for p in (world / "videos").glob("*.mp4")} & {
        p.read_bytes() for p in (world / "held_out").glob("*.mp4")
    }


def test_instructions_name_videos_beside_them_and_have_their_own_ids(world):
    rows = instructions(world)
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert not Path(row.video).is_absolute()
        assert (world / row.video).is_file()
    assert {row.video for row in rows} == {f"videos/{p.name}" for p in (world / "videos").glob("*.mp4")}


def test_benchmark_names_videos_beside_it_and_reads_back(world):
    path = world / "held_out" / "benchmark.jsonl"
    samples = read_samples(path)
    assert len({sample.id for sample in samples}) == len(samples)
    assert {sample.video for sample in samples} == {p.name for p in path.parent.glob("*.mp4")}


def test_each_held_out_story_makes_a_conflicting_group(world):
    groups = [s for s in read_samples(world / "held_out" / "benchmark.jsonl") if s.group]
    assert len(groups) == 2 * len({sample.group for sample in groups}) == 4


def test_making_it_again_renders_nothing_and_changes_nothing(world):
    before = contents(world)
    times = {path: path.stat().st_mtime_ns for path in world.rglob("*.mp4")}
    assert make(world) == 9
    assert contents(world) == before
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*.mp4")} == times


def test_world_that_was_interrupted_ends_in_the_same_files(world, tmp_path):
    """Whatever is not there yet is made; what a kill left half-written is no video."""
    for name, data in contents(world).items():
        if name.endswith(".mp4") and "00001" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    (tmp_path / "videos" / "story-0-00001.tmp.mp4").write_bytes(b"half")
    make(tmp_path)
    assert contents(tmp_path) == contents(world)


def test_number_of_workers_changes_nothing(world, tmp_path):
    make(tmp_path, num_workers=2)
    assert contents(tmp_path) == contents(world)


def test_another_seed_makes_another_world(world, tmp_path):
    make(tmp_path, SMALL.model_copy(update={"num_videos": 1, "num_held_out": 1}), seed=1)
    assert not contents(tmp_path).keys() & {n for n in contents(world) if n.endswith(".mp4")}


def test_more_videos_leave_the_first_ones_as_they_were():
    few, many = ([make_story(0, index, num_shots=(4, 16)) for index in range(count)] for count in (3, 6))
    assert many[:3] == few


@pytest.mark.parametrize(("fidelity", "is_true"), [(1.0, True), (0.0, False)])
def test_instructions_tell_the_true_order_as_often_as_asked_for(world, tmp_path, fidelity, is_true):
    """Rendering is passed over: the videos are there."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "held_out").mkdir()
    config = SyntheticConfig(
        num_videos=60, num_held_out=1, min_shots=6, max_shots=6, plain_share=0, order_fidelity=fidelity
    )
    for index in range(60):
        (tmp_path / "videos" / f"story-0-{index:05d}.mp4").touch()
    for name in ("story-0-1000000", "story-0-1000000-twin"):
        (tmp_path / "held_out" / f"{name}.mp4").touch()
    make(tmp_path, config)
    told = {s.id: [e.clause for e in s.events] for s in stories(tmp_path / "videos" / "scripts.jsonl")}
    in_order = []
    for row in instructions(tmp_path):
        clauses = told[row.id.split("/")[0]]
        places = [row.answer.find(clause) for clause in clauses]
        if min(places) >= 0:
            in_order.append(places == sorted(places))
    assert len(in_order) == 60
    assert all(in_order) if is_true else sum(in_order) < 3


def test_scripts_are_plain_json(world):
    for line in (world / "videos" / "scripts.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"id", "events"}


MAKE_LARGE = """
import sys
from pathlib import Path
from tempo.config import SyntheticConfig
from tempo.synthetic.dataset import make_dataset

if __name__ == "__main__":
    config = SyntheticConfig(num_videos=2000, num_held_out=1)
    make_dataset(config, Path(sys.argv[1]), seed=0, num_workers=1, progress=lambda: None)
"""


def children_of(pid):
    """Process ids that have this parent, the process that tracks shared memory left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            is_tracker = b"resource_tracker" in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and not is_tracker:
            found.append(int(entry.name))
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, *, patience_seconds=PATIENCE_SECONDS):
    deadline = time.monotonic() + patience_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


def test_rendering_ends_with_the_process_that_asked_for_it(tmp_path):
    script = tmp_path / "make_large.py"
    script.write_text(MAKE_LARGE)
    out = tmp_path / "out"
    parent = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.DEVNULL)
    workers = []
    try:
        until(lambda: any(out.glob("videos/*.mp4")) or parent.poll() is not None)
        workers = children_of(parent.pid)
        assert workers
        parent.kill()
        parent.wait()
        until(lambda: not any(map(is_alive, workers)), patience_seconds=5)
    finally:
        parent.kill()
        parent.wait()
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)
