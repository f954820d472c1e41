"""What tests of training share: phases, examples, and stored frames of random videos."""

import numpy as np
from pydantic import TypeAdapter

from tempo.config import PhaseConfig
from tempo.training.examples import Example, Label
from tempo.video.frames import FrameStore, encode_jpeg

PROMPT = "Describe the video in detail."


def phase(**changes):
    """A DPO phase with a small LoRA, unless changed."""
    settings = {"name": "p", "objective": "dpo", "learning_rate": 2e-3, "batch_size": 2, "lora_rank": 4}
    return TypeAdapter(PhaseConfig).validate_python(settings | changes)


def write_frames(directory, num_frames):
    """A store of videos `v0`, `v1` and so on of random frames, with as many frames as given."""
    store = FrameStore(directory / "frames")
    for index, count in enumerate(num_frames):
        frames = np.random.default_rng(index).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
        jpegs = [encode_jpeg(frame, 95) for frame in frames]
        store.write(f"v{index}", jpegs, seconds=[0.5 + i for i in range(count)], fps=1.0)
    return store


def pairs_example(index, *, level=2, rejected=("No.", "A b."), video=None):
    """A chosen and some rejected answers about a video, half of the kind `drop`."""
    labels = tuple(Label("reverse" if number % 2 else "drop", level) for number in range(len(rejected)))
    video = f"v{index}" if video is None else video
    answers = (f"A red circle {index}.", *rejected)
    return Example(f"v{index}/{level}", video, prompt=PROMPT, answers=answers, labels=labels)


def questions_example(index, questions=(("What?", "A ring."), ("Is it?", "Yes."))):
    """Some questions about a video."""
    return Example(f"v{index}/sft", f"v{index}", questions=tuple(questions))
