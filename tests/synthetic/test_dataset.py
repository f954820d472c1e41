"""The embedded world on disk: files that fit together, made once, the same each time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tempo.config import SyntheticConfig
from tempo.core.records import Instruction
from tempo.evaluation.benchmark import read_samples
from tempo.synthetic.dataset import FIRST_HELD_OUT, make_dataset
from tempo.synthetic.world import Story

SMALL = SyntheticConfig(num_videos=5, num_held_out=2, min_shots=4, max_shots=5, plain_share=0.4)


def make(directory, config=SMALL, *, seed=0, num_workers=1):
    """Writes a small world and returns how often progress was reported."""
    calls = []
    make_dataset(config, directory, seed=seed, num_workers=num_workers, progress=lambda: calls.append(None))
    return len(calls)


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def rows(path, record):
    return [record.model_validate_json(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic")
    assert make(directory) == 5 + 2 * 2
    return directory


def test_every_story_has_its_video_and_nothing_else_is_left(world):
    for folder, count in (("videos", 5), ("held_out", 4)):
        ids = [story.id for story in rows(world / folder / "scripts.jsonl", Story)]
        assert sorted(ids) == sorted(path.stem for path in (world / folder).glob("*.mp4"))
        assert len(ids) == count
    assert {path.suffix for path in world.rglob("*") if path.is_file()} == {".mp4", ".jsonl"}


def test_stories_have_the_shots_asked_for_and_plain_ones_come_last(world):
    counts = [len(story.events) for story in rows(world / "videos" / "scripts.jsonl", Story)]
    assert all(count in (4, 5) for count in counts[:3])
    assert all(count <= 3 for count in counts[3:])
    assert all(len(s.events) in (4, 5) for s in rows(world / "held_out" / "scripts.jsonl", Story))


def test_training_and_held_out_stories_share_neither_id_nor_content(world):
    train, held_out = (rows(world / folder / "scripts.jsonl", Story) for folder in ("videos", "held_out"))
    assert not {s.id for s in train} & {s.id for s in held_out}
    assert not {s.events for s in train} & {s.events for s in held_out}


def test_instructions_and_benchmark_name_videos_next_to_them(world):
    instructions = rows(world / "instructions.jsonl", Instruction)
    assert len({row.id for row in instructions}) == len(instructions)
    assert {row.video for row in instructions} == {
        f"videos/{p.name}" for p in (world / "videos").glob("*.mp4")
    }
    path = world / "held_out" / "benchmark.jsonl"
    samples = read_samples(path)
    assert {sample.video for sample in samples} == {p.name for p in path.parent.glob("*.mp4")}
    groups = [sample.group for sample in samples if sample.group]
    assert len(groups) == 2 * len(set(groups)) == 4


def test_making_it_again_renders_nothing_and_changes_nothing(world):
    before = contents(world)
    times = {path: path.stat().st_mtime_ns for path in world.rglob("*.mp4")}
    assert make(world) == 9
    assert contents(world) == before
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*.mp4")} == times


def test_an_interrupted_world_ends_with_the_same_files(world, tmp_path):
    for name, data in contents(world).items():
        if name.endswith(".mp4") and "00001" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    # A file that a killed process left half written.
    (tmp_path / "videos" / "story-0-00001.tmp.mp4").write_bytes(b"half")
    make(tmp_path, num_workers=2)
    assert contents(tmp_path) == contents(world)


def test_another_seed_makes_another_world(world, tmp_path):
    make(tmp_path, SMALL.model_copy(update={"num_videos": 1, "num_held_out": 1}), seed=1)
    assert not contents(tmp_path).keys() & {n for n in contents(world) if n.endswith(".mp4")}


@pytest.mark.parametrize(("fidelity", "is_true"), [(1.0, True), (0.0, False)])
def test_instructions_keep_the_true_order_as_often_as_asked_for(tmp_path, fidelity, is_true):
    config = SyntheticConfig(
        num_videos=60, num_held_out=1, min_shots=6, max_shots=6, plain_share=0, order_fidelity=fidelity
    )
    # Empty files instead of videos, which are then not rendered.
    held_out = f"held_out/story-0-{FIRST_HELD_OUT}"
    for name in (*(f"videos/story-0-{i:05d}" for i in range(60)), held_out, f"{held_out}-twin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").touch()
    make(tmp_path, config)
    stories = rows(tmp_path / "videos" / "scripts.jsonl", Story)
    clauses = {story.id: [event.clause for event in story.events] for story in stories}
    in_order = []
    for row in rows(tmp_path / "instructions.jsonl", Instruction):
        places = [row.answer.find(clause) for clause in clauses[row.id.split("/")[0]]]
        if min(places) >= 0:
            in_order.append(places == sorted(places))
    assert len(in_order) == 60
    assert all(in_order) if is_true else sum(in_order) < 3


MAKE_LARGE = """
import sys
from pathlib import Path
from tempo.config import SyntheticConfig
from tempo.synthetic.dataset import make_dataset

if __name__ == "__main__":
    config = SyntheticConfig(num_videos=2000, num_held_out=1)
    make_dataset(config, Path(sys.argv[1]), seed=0, num_workers=1, progress=lambda: None)
"""


def test_rendering_ends_with_the_process_that_started_it(tmp_path):
    script, out = tmp_path / "make_large.py", tmp_path / "out"
    script.write_text(MAKE_LARGE)
    parent = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.DEVNULL)
    workers = []
    try:
        deadline = time.monotonic() + 60
        while not any(Path(out).glob("videos/*.mp4")):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = psutil.Process(parent.pid).children()
        assert workers
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive
    finally:
        parent.kill()
        parent.wait()
        for worker in workers:
            if worker.is_running():
                worker.kill()
