"""Two processes learn what one learns, whatever their shares of a batch are."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tempo.config import DpoPhase, ModelConfig, SftPhase
from tempo.model.loading import load_video_lm
from tempo.training.groups import Label, Lesson
from tempo.training.phases import save_checkpoint
from tempo.training.trainer import Surroundings, train_phase
from tempo.video.frames import FrameStore, encode_jpeg

SCRIPT = Path(__file__).with_name("learn_together.py")
CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


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


def copies(num_processes):
    """A command that starts a script in processes which hold a copy of the weights each."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]


def parts(num_processes, *options, config="fsdp2.yaml"):
    """The same, each with a part of the weights or of what belongs to them."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config), *options]
    return [*launch, "--num_processes", str(num_processes), "--main_process_port", "0"]


def launch(frames, out, phase, lessons, *, command, max_tokens=4096, stop=0):
    out.mkdir(exist_ok=True)
    arguments = [frames.directory, out, phase.model_dump_json(), json.dumps([asdict(row) for row in lessons])]
    return subprocess.run(
        [sys.executable, *command, str(SCRIPT), *map(str, [*arguments, max_tokens, stop])],
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )


def learn(frames, out, phase, lessons, **options):
    ended = launch(frames, out, phase, lessons, **options)
    assert ended.returncode == 0, ended.stderr
    return read(out)


def read(out):
    """Final weights and rows of metrics."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "model" / "model.safetensors"), rows


def alone(frames, out, phase, lessons, *, max_tokens=4096):
    """What this process learns by itself."""
    lm = load_video_lm(ModelConfig(device="cpu"))
    around = Surroundings(frames=frames, seed=0, max_tokens=max_tokens, directory=out)
    save_checkpoint(train_phase(lm, phase, lessons, around), out / "model")
    return read(out)


def assert_equal(one, two, *, num_steps):
    (one, rows), (two, others) = one, two
    assert len(rows) == len(others) == num_steps
    for row, other in zip(rows, others, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name
    assert one.keys() == two.keys()
    changes = torch.cat([(one[name] - two[name]).flatten().abs() for name in one])
    assert float(changes.max()) < 1e-4


@pytest.mark.parametrize(
    ("objective", "batch_size", "max_tokens"),
    # Batches of 3 and 2: shares of two and one. Batches of 4 and 1: at last one process has nothing.
    [("dpo", 3, 4096), ("dpo", 4, 70), ("sft", 4, 4096)],
)
def test_two_processes_equal_one(frames, tmp_path, objective, batch_size, max_tokens):
    phase = (DpoPhase if objective == "dpo" else SftPhase)(
        name="p", objective=objective, learning_rate=2e-3, batch_size=batch_size, lora_rank=4, lora_alpha=8
    )
    lessons = [(lesson if objective == "dpo" else questions)(index) for index in range(5)]
    one = alone(frames, tmp_path / "1", phase, lessons, max_tokens=max_tokens)
    two = learn(frames, tmp_path / "2", phase, lessons, command=copies(2), max_tokens=max_tokens)
    assert_equal(one, two, num_steps=2)


def test_parts_of_the_weights_learn_what_one_process_learns(frames, tmp_path):
    """The weights themselves, the tower with them, in batches of 4 and 1: one process has nothing at last."""
    phase = SftPhase(
        name="p",
        objective="sft",
        learning_rate=2e-3,
        epochs=2,
        lora_rank=0,
        train_vision=True,
        gradient_checkpointing=True,
    )
    lessons = [questions(index) for index in range(5)]
    one = alone(frames, tmp_path / "1", phase, lessons)
    two = learn(frames, tmp_path / "2", phase, lessons, command=parts(2))
    assert_equal(one, two, num_steps=4)
    assert (tmp_path / "1/model/config.json").read_text() == (tmp_path / "2/model/config.json").read_text()


@pytest.mark.parametrize("config", ["fsdp2.yaml", "deepspeed_zero2.yaml"])
def test_parts_go_on_after_a_stop(frames, tmp_path, config):
    """LoRA, its reference the same weights without it."""
    if config.startswith("deepspeed") and not find_spec("deepspeed"):
        pytest.skip("needs the extra `deepspeed`")
    phase = DpoPhase(
        name="p", objective="dpo", learning_rate=2e-3, epochs=2, batch_size=3, lora_rank=4, lora_alpha=8
    )
    lessons = [lesson(index) for index in range(5)]
    command = parts(2, config=config)
    ended = launch(frames, tmp_path / "2", phase, lessons, command=command, stop=3)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "2" / "model").exists()
    two = learn(frames, tmp_path / "2", phase, lessons, command=command)
    assert_equal(alone(frames, tmp_path / "1", phase, lessons), two, num_steps=4)


def test_what_cannot_be_used_of_the_launcher_is_refused_by_name(frames, tmp_path):
    phase = SftPhase(name="p", objective="sft", learning_rate=2e-3)
    told = ["--fsdp_cpu_ram_efficient_loading", "--fsdp_activation_checkpointing", "--fsdp_offload_params"]
    options = [word for name in told for word in (name, "true")]
    ended = launch(frames, tmp_path / "1", phase, [questions(0)], command=parts(1, *options))
    assert ended.returncode != 0
    for name in told:
        assert name.removeprefix("--") in ended.stderr
    assert "fsdp_version" not in ended.stderr.split("accelerate launch:")[1]


def test_one_alone_waits_for_nobody(monkeypatch):
    from tempo.engine import ranks as processes

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (processes.process_rank(), processes.num_processes()) == (0, 1)
    assert processes.call_to_training("cpu", is_needed=True)
    assert processes.call_to_training("cpu", is_needed=False) is False
    processes.wait_for_all()
