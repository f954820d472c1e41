"""One phase, trained by every process that was started with this script; the first writes weights and rows.

    torchrun --nproc-per-node 2 tests/training/learn_together.py FRAMES OUT PHASE LESSONS MAX_TOKENS

FRAMES is a frame store's directory, PHASE and LESSONS are JSON.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tempo.model.loading import load_video_lm
from tempo.processes import call_to_training, process_rank, wait_for_all
from tempo.sections import ModelConfig, PhaseConfig
from tempo.training.groups import Label, Lesson
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
    frames, out, phase, lessons, max_tokens = sys.argv[1:]
    torch.set_num_threads(1)
    assert call_to_training("cpu", is_wanted=process_rank() == 0)
    surroundings = Surroundings(
        frames=FrameStore(Path(frames)), seed=0, max_tokens=int(max_tokens), directory=Path(out)
    )
    lm = load_video_lm(ModelConfig(device="cpu"))
    settings = PhaseConfig.model_validate_json(phase)
    trained = train_phase(lm, settings, read_lessons(lessons), surroundings)
    if process_rank() == 0:
        save_file(
            {n: w.clone() for n, w in trained.model.state_dict().items()}, Path(out) / "weights.safetensors"
        )
    wait_for_all()


if __name__ == "__main__":
    main()
