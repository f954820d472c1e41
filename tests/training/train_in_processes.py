"""Trains one phase in every process that was started with this script; process 0 writes weights and metrics.

    torchrun --nproc-per-node 2 tests/training/train_in_processes.py FRAMES OUT PHASE EXAMPLES MAX_TOKENS STOP

FRAMES is a frame store's directory, PHASE and EXAMPLES are JSON. All stop in step STOP, 0 for never.
"""

import functools
import json
import sys
from pathlib import Path

import torch
from training_material import phase, train

from tempo.config import ModelConfig
from tempo.engine.ranks import call_to_training, process_rank, shards_weights, wait_for_all
from tempo.model.loading import load_model
from tempo.training.examples import Example
from tempo.training.phases import save_checkpoint
from tempo.video.frames import FrameStore


def main():
    """Trains."""
    frames, out, settings, examples, max_tokens, stop = sys.argv[1:]
    torch.set_num_threads(1)
    assert call_to_training("cpu", is_needed=process_rank() == 0)
    model = ModelConfig(device="cpu")

    def progress(directory, step, num_steps, row):
        if step == int(stop):
            sys.exit()

    trained, _ = train(
        FrameStore(Path(frames)),
        Path(out),
        phase(**json.loads(settings)),
        [Example(**row) for row in json.loads(examples)],
        model=model,
        caches={"load_full": functools.partial(load_model, **model.model_dump())} if shards_weights() else {},
        max_tokens=int(max_tokens),
        checkpoint_minutes=0 if int(stop) else 10,
        progress=progress,
    )
    if process_rank() == 0:
        save_checkpoint(trained, Path(out) / "model")
    wait_for_all()


if __name__ == "__main__":
    main()
