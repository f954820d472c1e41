"""What tests of training share: phases, examples, stored frames of random videos, and one training."""

import json

import numpy as np
from pydantic import TypeAdapter
from sample_material import context_of

from tempo.config import ModelConfig, PhaseConfig
from tempo.engine.ranks import process_rank
from tempo.training.adapters import TrainedModel
from tempo.training.examples import Example
from tempo.training.phases import Session, train_phase
from tempo.video.frames import FrameStore, encode_jpeg

PROMPT = "Describe the video in detail."


def phase(**changes):
    """A DPO phase with a small LoRA, unless changed."""
    settings = {"name": "p", "objective": "dpo", "learning_rate": 2e-3, "batch_size": 2, "lora_rank": 4}
    return TypeAdapter(PhaseConfig).validate_python(settings | changes)


def write_frames(directory, num_frames):
    """A run directory with frames of random videos `v0`, `v1` and so on, as many frames as given."""
    store = FrameStore(directory / "frames")
    for index, count in enumerate(num_frames):
        frames = np.random.default_rng(index).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
        jpegs = [encode_jpeg(frame, 95) for frame in frames]
        store.write(f"v{index}", jpegs, seconds=[0.5 + i for i in range(count)], fps=1.0)
    return store


def pairs_example(index, *, level=2, rejected=("No.", "A b."), video=None):
    """A chosen and some rejected answers about a video, half of the kind `drop`."""
    labels = tuple(("reverse" if number % 2 else "drop", level) for number in range(len(rejected)))
    answers = (f"A red circle {index}.", *rejected)
    return Example(f"v{index}/{level}", video or f"v{index}", prompt=PROMPT, answers=answers, labels=labels)


def questions_example(index, questions=(("What?", "A ring."), ("Is it?", "Yes."))):
    """Some questions about a video."""
    return Example(f"v{index}/sft", f"v{index}", questions=tuple(questions))


def train(
    frames, directory, settings, examples, *, progress=None, log=None, model=None, responses=None, **training
):
    """The `TrainedModel` after a phase, and the rows of metrics; `training` are keys of the section."""
    sections = {"training": {"max_tokens": 4096} | training, "responses": responses or {}}
    context = context_of(frames.directory.parent, **sections, model=(model or ModelConfig()).model_dump())
    callbacks = {"progress": progress, "log": log}
    callbacks = {name: callback for name, callback in callbacks.items() if callback}
    session = Session(context, **callbacks)
    trained = TrainedModel(context.config.model, directory / "adapter")
    weights = train_phase(trained, settings, examples, session, directory)
    if process_rank() == 0:
        trained.save_phase(settings, weights, directory)
        trained.finish_phase(settings, directory)
    return trained, [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def timeless(rows):
    """The rows without their durations and rates."""
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(step):
    """A callback that stops training after a step."""

    def progress(directory, done, num_steps, row):
        if done == step:
            raise Stopped

    return progress
