"""Trains one phase in every process that was started with this script; process 0 writes weights and metrics.

    torchrun --nproc-per-node 2 tests/training/train_in_processes.py FRAMES OUT PHASE EXAMPLES MAX_TOKENS STOP

FRAMES is a frame store's directory, PHASE and EXAMPLES are JSON. All stop in step STOP, 0 for never.
"""

import json
import sys
from pathlib import Path

import torch
from training_material import phase

from tempo.config import ModelConfig
from tempo.engine.ranks import call_to_training, process_rank, shards_weights, wait_for_all
from tempo.model.loading import load_video_lm
from tempo.training.examples import Example, Label
from tempo.training.phases import save_checkpoint
from tempo.training.trainer import PhaseContext, train_phase
from tempo.video.frames import FrameStore


def read_examples(text):
    """Examples from JSON."""
    return [
        Example(
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
    frames, out, settings, examples, max_tokens, stop = sys.argv[1:]
    torch.set_num_threads(1)
    assert call_to_training("cpu", is_needed=process_rank() == 0)

    def progress(step, num_steps, row):
        if step == int(stop):
            sys.exit()

    def load():
        return load_video_lm(ModelConfig(device="cpu"))

    context = PhaseContext(
        frames=FrameStore(Path(frames)),
        seed=0,
        max_tokens=int(max_tokens),
        directory=Path(out),
        checkpoint_minutes=0 if int(stop) else 10,
        load_full=load if shards_weights() else None,
        progress=progress,
    )
    trained = train_phase(load(), phase(**json.loads(settings)), read_examples(examples), context)
    if process_rank() == 0:
        save_checkpoint(trained, Path(out) / "model")
    wait_for_all()


if __name__ == "__main__":
    main()
