"""Two processes learn what one learns, whatever their shares of a batch are."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tempo.sections import PhaseConfig
from tempo.training.groups import Label, Lesson
from tempo.video.frames import FrameStore, encode_jpeg

SCRIPT = Path(__file__).with_name("learn_together.py")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Five videos of two or four random frames."""
    import numpy as np

    store = FrameStore(tmp_path_factory.mktemp("run") / "frames")
    for index in range(5):
        count = 2 + 2 * (index % 2)
        pictures = np.random.default_rng(index).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
        jpegs = [encode_jpeg(picture, 95) for picture in pictures]
        store.write(f"v{index}", jpegs, seconds=[0.5 + i for i in range(count)], fps=1.0)
    return store


def lesson(index):
    """Ragged: one to three rejected answers."""
    rejected = ["No.", "A blue ring.", "A b."][: index % 3 + 1]
    return Lesson(
        f"v{index}/2",
        f"v{index}",
        prompt="Describe the video in detail.",
        answers=(f"A red circle {index} moves left.", *rejected),
        labels=tuple(Label("drop", 2) for _ in rejected),
    )


def questions(index):
    rows = (("What?", "A ring."), ("Is it there?", "Yes, it is."), ("Who?", "A cross."))[: index % 3 + 1]
    return Lesson(f"v{index}/sft", f"v{index}", questions=rows)


def learn(frames, out, phase, lessons, *, num_processes, max_tokens):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"]
    arguments = [frames.directory, out, phase.model_dump_json(), json.dumps([asdict(row) for row in lessons])]
    out.mkdir()
    ended = subprocess.run(
        [*command, "--standalone", str(SCRIPT), *map(str, arguments), str(max_tokens)],
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "weights.safetensors"), rows


@pytest.mark.parametrize(
    ("objective", "batch_size", "max_tokens"),
    # Batches of 3 and 2: shares of two and one. Batches of 4 and 1: at last one process has nothing.
    [("dpo", 3, 4096), ("dpo", 4, 70), ("sft", 4, 4096)],
)
def test_two_processes_equal_one(frames, tmp_path, objective, batch_size, max_tokens):
    phase = PhaseConfig(
        name="p", objective=objective, learning_rate=2e-3, batch_size=batch_size, lora_rank=4, lora_alpha=8
    )
    lessons = [(lesson if objective == "dpo" else questions)(index) for index in range(5)]
    (one, rows), (two, others) = (
        learn(frames, tmp_path / str(n), phase, lessons, num_processes=n, max_tokens=max_tokens)
        for n in (1, 2)
    )
    assert len(rows) == len(others) == 2
    for row, other in zip(rows, others, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name
    changes = torch.cat([(one[name] - two[name]).flatten().abs() for name in one])
    assert float(changes.max()) < 1e-4


def test_one_alone_waits_for_nobody(monkeypatch):
    from tempo import processes

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (processes.process_rank(), processes.num_processes()) == (0, 1)
    assert processes.call_to_training("cpu", is_wanted=True)
    assert not processes.call_to_training("cpu", is_wanted=False)
    processes.wait_for_all()
