"""The memory that `tempo plan` predicts, compared with the memory that a training step takes.

    python benchmarks/plan.py [--frames 60] [--seven]

It takes two optimizer steps of DPO on one packed row, with the embedded model and one of 31 million random
weights, with LoRA and with all weights, without and with gradient checkpointing. Each runs in its own process
on one thread. The measured value is the largest resident size (`VmHWM`), minus the size of the process before
it creates the model. glibc is set to return freed memory at once, because by default it keeps some of it.

`--seven` prints the plan of a step of Qwen2.5-VL-7B in bfloat16, without weights.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import harness
import numpy as np

TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "layer_types": ["full_attention"] * 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [16, 8, 8]},
}
VISION = {"hidden_size": 256, "intermediate_size": 640, "num_heads": 4, "out_hidden_size": 512}
SIDE = 128


def make_config(name: str) -> Any:
    """The configuration of a model by its name."""
    from tempo.model.loading import read_config

    config = read_config("embedded")
    for section, changes in ((config.text_config, TEXT), (config.vision_config, VISION)):
        for key, value in changes.items() if name == "random" else ():
            setattr(section, key, value)
    return config


def make_phase(rank: int, checkpointing: bool) -> Any:
    """A DPO phase with LoRA of this rank, or with all weights for 0."""
    from tempo.config import DpoPhase

    options = {"lora_rank": rank, "gradient_checkpointing": checkpointing}
    return DpoPhase(name="plan", objective="dpo", learning_rate=1e-4, batch_size=1, **options)


def make_row(num_frames: int, num_words: int = 500) -> Any:
    """A packed row: one video, one chosen and three rejected answers."""
    from tempo.model.chat import Prefix, VideoLM
    from tempo.model.loading import load_processor

    processor = load_processor("embedded")
    size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2 * num_frames}
    processor.video_processor.size = size
    frames = np.zeros((num_frames, SIDE, SIDE, 3), np.uint8)
    prefix = Prefix(frames, "Describe the video in detail.")
    return [VideoLM(None, processor).group(prefix, ["a red circle moves left " * (num_words // 5)] * 4)]


def predict(name: str, rank: int, checkpointing: bool, num_frames: int) -> tuple[int, float]:
    """The number of tokens and the predicted peak in megabytes."""
    import torch

    from tempo.training.memory import Simulator

    row = make_row(num_frames)
    simulator = Simulator(make_config(name), dtype=torch.float32)
    cost = simulator.train(row, make_phase(rank, checkpointing))
    return sum(row[0].lengths), cost.peak_bytes / 2**20


def measure(name: str, rank: int, checkpointing: bool, num_frames: int) -> float:
    """The peak in megabytes of two optimizer steps, the weights included."""
    phase, row = make_phase(rank, checkpointing), make_row(num_frames)
    # Imports and kernels are loaded by a first, small step.
    take_steps("embedded", phase, make_row(2, 10))
    before = harness.forget_peak()
    take_steps(name, phase, row)
    return harness.peak_megabytes() - before


def take_steps(name: str, phase: Any, row: Any) -> None:
    """Makes the model with random weights and takes two steps as a run does."""
    import torch

    from tempo.model.loading import repair_torchvision
    from tempo.model.support import use_shared_prefix
    from tempo.training.examples import Example
    from tempo.training.order import Batch
    from tempo.training.policy import Policy
    from tempo.training.trainer import Trainer

    repair_torchvision()
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(make_config(name), dtype=torch.float32)
    use_shared_prefix(model)
    policy = Policy(model.eval(), phase, dtype=torch.float32)
    trainer = Trainer(policy, phase, num_steps=2, seed=0, max_tokens=sum(row[0].lengths))
    for _ in range(2):
        trainer.step(Batch([(Example("row", "video"), row[0])]))


def seven() -> None:
    """Prints the parts of the peak of a step of Qwen2.5-VL-7B, in gigabytes."""
    import gpu_model
    import torch

    from tempo.training.memory import Simulator

    size = gpu_model.SEVEN_B
    row = [gpu_model.make_video_group(size, torch.bfloat16)]
    parts = ("weights", "adapters", "reference", "gradients", "optimizer", "activations")
    lines = []
    for four_bit in (False, True):
        simulator = Simulator(
            gpu_model.make_config(size), dtype=torch.bfloat16, on_gpu=True, four_bit=four_bit
        )
        for rank in (32,) if four_bit else (32, 0):
            for checkpointing in (False, True):
                cost = simulator.train(row, make_phase(rank, checkpointing))
                sizes = [getattr(cost, f"{part}_bytes") for part in parts]
                what = f"{'4-bit ' if four_bit else ''}{f'LoRA {rank}' if rank else 'full'}"
                cells = [f"{value / 1e9:.2f}" for value in (*sizes, cost.peak_bytes)]
                lines.append([what, "yes" if checkpointing else "no", *cells, f"{cost.flops / 1e12:.0f}"])
    print(f"a row of {sum(row[0].lengths):,} tokens, {row[0].lengths[0]:,} of them video and prompt")
    print(harness.table(["weights trained", "checkpointing", *parts, "peak", "TFLOP"], lines))


def main() -> None:
    """Prints predicted and measured memory of the eight cases, or the plan of the 7B model."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seven", action="store_true")
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    # Freed blocks of this size or more go back to the system.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    if arguments.seven:
        harness.in_fresh_process(seven)
        return
    lines = []
    for name in ("embedded", "random"):
        for rank in (32, 0):
            for checkpointing in (False, True):
                case = name, rank, checkpointing, arguments.frames
                num_tokens, expected = harness.in_fresh_process(predict, *case)
                found = harness.in_fresh_process(measure, *case)
                what = [name, f"LoRA {rank}" if rank else "full", "yes" if checkpointing else "no"]
                figures = [f"{expected:.0f}", f"{found:.0f}", f"{expected / found - 1:+.1%}"]
                lines.append([*what, str(num_tokens), *figures])
                print(*lines[-1], flush=True)
    header = ["model", "weights", "checkpointing", "tokens", "predicted, MB", "measured, MB", "difference"]
    print(harness.table(header, lines))


if __name__ == "__main__":
    main()
