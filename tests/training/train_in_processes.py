"""One of the processes that train a phase together; process 0 writes weights and metrics."""

import os
import signal
import sys
from pathlib import Path

import torch
from training_material import phase, train

from tempo.config import ModelConfig
from tempo.engine.ranks import call_to_training, process_rank, wait_for_all
from tempo.model.loading import repair_torchvision
from tempo.training.adapters import save_checkpoint
from tempo.video.frames import FrameStore

# What loading the model imports, so that a process that is forked from one with this module has it.
repair_torchvision()
import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: E402
import transformers.models.qwen2_5_vl.processing_qwen2_5_vl  # noqa: E402, F401


def train_as_process(environment, frames, out, settings, examples, max_tokens, stop):
    """Trains in this process, whose rank and launcher are in the environment; ends it in step `stop`."""
    # Processes that wait for each other forever are killed.
    signal.alarm(300)
    os.environ |= environment
    torch.set_num_threads(1)
    assert call_to_training("cpu", is_needed=process_rank() == 0)
    model = ModelConfig(device="cpu")

    def progress(directory, step, num_steps, row):
        if step == stop:
            sys.exit()

    trained, _ = train(
        FrameStore(frames),
        Path(out),
        phase(**settings),
        examples,
        model=model,
        max_tokens=max_tokens,
        checkpoint_minutes=0 if stop else 10,
        progress=progress,
    )
    if process_rank() == 0:
        save_checkpoint(trained.merged(), Path(out) / "model")
    wait_for_all()
