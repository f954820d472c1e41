"""One phase, trained by every process that was started with this script; the first writes weights and rows.

    torchrun --nproc-per-node 2 tests/training/learn_together.py FRAMES OUT PHASE LESSONS MAX_TOKENS STOP

FRAMES is a frame store's directory, PHASE and LESSONS are JSON. All stop in step STOP, 0 for never.
"""

import json
import os
import sys
from pathlib import Path

import torch
from pydantic import TypeAdapter

from tempo.config import ModelConfig, PhaseConfig
from tempo.engine.ranks import call_to_training, process_rank, shards_weights, wait_for_all
from tempo.model.loading import load_video_lm
from tempo.training.groups import Label, Lesson
from tempo.training.phases import save_checkpoint
from tempo.training.trainer import Surroundings, train_phase
from tempo.video.frames import FrameStore


def read_lessons(text):
    """Lessons of their JSON."""
    return [
        Lesson(
            row["id"],
            row["video_id"],
            prompt=row["prompt"],
            answers=tuple(row["answers"]),
            labels=tuple(Label(*label) for label in row["labels"]),
            questions=tuple((question, answer) for question, answer in row["questions"]),
        )
        for row in json.loads(text)
    ]


def main():
    """Trains."""
    frames, out, phase, lessons, max_tokens, stop = sys.argv[1:]
    torch.set_num_threads(1)
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        # Else it compiles a sum of its own for CPUs first.
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    assert call_to_training("cpu", is_needed=process_rank() == 0)

    def progress(step, num_steps, row):
        if step == int(stop):
            sys.exit()

    def load():
        return load_video_lm(ModelConfig(device="cpu"))

    surroundings = Surroundings(
        frames=FrameStore(Path(frames)),
        seed=0,
        max_tokens=int(max_tokens),
        directory=Path(out),
        checkpoint_minutes=0 if int(stop) else 10,
        load_whole=load if shards_weights() else None,
        progress=progress,
    )
    lm = load()
    settings = TypeAdapter(PhaseConfig).validate_json(phase)
    trained = train_phase(lm, settings, read_lessons(lessons), surroundings)
    if process_rank() == 0:
        save_checkpoint(trained, Path(out) / "model")
    wait_for_all()


if __name__ == "__main__":
    main()
