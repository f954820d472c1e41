"""Two processes learn what one learns, with copies of the weights (DDP) and with shards of them (FSDP2)."""

import json
import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver

import pytest
import torch
from safetensors.torch import load_file
from sample_material import launch
from train_in_processes import train_as_process
from training_material import PROMPT, pairs_example, phase, questions_example, train, write_frames

from tempo.config import ModelConfig
from tempo.core.records import Captions
from tempo.core.store import RunStore
from tempo.training.adapters import save_checkpoint
from tempo.training.examples import Example


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Five videos of two or four frames, with captions."""
    directory = tmp_path_factory.mktemp("run")
    texts = ("A red circle moves left in the sea.", "A blue ring grows in the cave.")
    RunStore(directory).append("captions", [Captions(id=f"v{i}", captions=texts) for i in range(5)])
    return write_frames(directory, [2, 4, 2, 4, 2])


#: Ragged: one to three rejected answers, and one to three questions.
PAIRS = [pairs_example(i, rejected=("No.", "A blue ring.", "A b.")[: i % 3 + 1]) for i in range(5)]
ASKED = (("What?", "A ring."), ("Is it there?", "Yes, it is."), ("Who?", "A cross."))
QUESTIONS = [questions_example(i, ASKED[: i % 3 + 1]) for i in range(5)]

VIDEOS = [Example(f"v{i}/grpo", f"v{i}", PROMPT, ("",)) for i in range(5)]


def read(out):
    """Final weights and rows of metrics."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "model" / "model.safetensors"), rows


@pytest.fixture(scope="module")
def processes():
    """Starts processes. They are forked from one that has imported everything, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["train_in_processes"])
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    """What `accelerate launch` sets in the environment of its processes under the shipped configuration."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    environment = json.loads(launch(tmp_path_factory.mktemp("script"), code)[0])
    return {name: environment[name] for name in environment if name.startswith(("ACCELERATE_", "FSDP_"))}


def together(processes, frames, out, settings, examples, *, launcher=None, max_tokens=4096, stop=0):
    """What two processes learn; nothing is returned if they stop."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (launcher or {})
    started = []
    for rank in ("0", "1"):
        environment = shared | {"RANK": rank, "LOCAL_RANK": rank}
        arguments = (environment, frames.directory, out, settings, examples, max_tokens, stop)
        started.append(processes.Process(target=train_as_process, args=arguments))
        started[-1].start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    return None if stop else read(out)


def alone(frames, out, settings, examples, *, max_tokens=4096):
    """What this process learns by itself."""
    model = ModelConfig(device="cpu")
    trained, _ = train(frames, out, phase(**settings), examples, model=model, max_tokens=max_tokens)
    save_checkpoint(trained.merged(), out / "model")
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
    ("settings", "examples", "max_tokens"),
    [
        # Batches of 3 and 2: shares of two and one. Batches of 4 and 1: one process has nothing at last.
        ({"batch_size": 3}, PAIRS, 4096),
        ({"batch_size": 4}, PAIRS, 70),
        ({"batch_size": 4, "objective": "sft"}, QUESTIONS, 4096),
        ({"batch_size": 4, "objective": "grpo", "num_answers": 2}, VIDEOS, 4096),
    ],
)
def test_two_processes_equal_one(processes, frames, tmp_path, settings, examples, max_tokens):
    one = alone(frames, tmp_path / "1", settings, examples, max_tokens=max_tokens)
    two = together(processes, frames, tmp_path / "2", settings, examples, max_tokens=max_tokens)
    assert_equal(one, two, num_steps=2)


def test_sharded_weights_learn_what_one_process_learns(processes, fsdp2, frames, tmp_path):
    """All weights, the tower's too, in batches of 4 and 1: one process has nothing at last."""
    settings = {"objective": "sft", "epochs": 2, "batch_size": 4, "lora_rank": 0}
    settings |= {"train": ["language_model", "vision_tower", "merger"], "gradient_checkpointing": True}
    one = alone(frames, tmp_path / "1", settings, QUESTIONS)
    two = together(processes, frames, tmp_path / "2", settings, QUESTIONS, launcher=fsdp2)
    assert_equal(one, two, num_steps=4)
    assert (tmp_path / "1/model/config.json").read_text() == (tmp_path / "2/model/config.json").read_text()


def test_sharded_weights_resume_after_a_stop(processes, fsdp2, frames, tmp_path):
    """LoRA, whose reference is the same weights without it."""
    settings = {"epochs": 2, "batch_size": 3}
    together(processes, frames, tmp_path / "2", settings, PAIRS, launcher=fsdp2, stop=3)
    assert not (tmp_path / "2" / "model").exists()
    two = together(processes, frames, tmp_path / "2", settings, PAIRS, launcher=fsdp2)
    assert_equal(alone(frames, tmp_path / "1", settings, PAIRS), two, num_steps=4)
