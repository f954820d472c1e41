"""One DPO step at the size of Qwen2.5-VL-7B on one GPU: rates, memory, profile, share of the chip's peak.

    python benchmarks/gpu.py                 # one GPU of 80 GB
    python benchmarks/gpu.py --tiny          # checks the code on a CPU in seconds; its figures mean nothing

The configuration is that of Qwen2.5-VL-7B, the weights are random: time and memory do not depend on them.
bfloat16, LoRA 32/64 on the language model, frozen tower, gradient checkpointing, one video of 11,520 visual
tokens (120 frames of 336 x 448), 1 chosen + 3 rejected of 300 tokens. Packed and duplicated run in this one
process, in this order. The time covers policy, reference and backward, without the optimizer's step, which
is the same in both.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from flops import packed_step_flops, peak_flops
from gpu_model import SEVEN_B, TINY, Size, make_model, make_video_group
from harness import Row, Summary, add_rows, forget_peak, peak_megabytes, rate_row, rows_table, table
from policies import LORA, flat_gradient, make_policy
from shared_prefix import duplicated_step, packed_step

NAME = "gpu_dpo_step"


class Meter:
    """Seconds and peak memory on one device."""

    def __init__(self, device: Any) -> None:
        self._on_gpu = device.type == "cuda"

    def now(self) -> float:
        """The time after the device has finished all its work."""
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def forget(self) -> float:
        """Resets the peak; returns the memory in use now in megabytes (the resident size on a CPU)."""
        import torch

        if not self._on_gpu:
            return forget_peak()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20

    def peak(self) -> float:
        """The peak in megabytes since `forget`."""
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 if self._on_gpu else peak_megabytes()


def run_form(form: Callable[[], float], policy: Any, meter: Meter, num_steps: int) -> tuple[Summary, float]:
    """Measures a form after one warm-up step: its figures, and its peak including the model."""
    held = meter.forget()
    seconds, losses = [], []
    for _ in range(num_steps + 1):
        for parameter in policy.trained.values():
            parameter.grad = None
        start = meter.now()
        losses.append(form())
        seconds.append(meter.now() - start)
    peak = meter.peak()
    gradient = flat_gradient(policy.trained.values())
    return Summary(statistics.median(seconds[1:]), peak - held, tuple(losses), gradient), peak


def time_parts(policy: Any, group: Any, meter: Meter) -> dict[str, float]:
    """Seconds of each part of one packed step; waits for the device after each part."""
    parts: dict[str, float] = {}
    last = meter.now()

    def lap(part: str) -> None:
        nonlocal last
        now = meter.now()
        parts[part], last = now - last, now

    packed_step(policy, group, lap=lap)
    return parts


def profile(step: Callable[[], float], device: Any) -> str:
    """The profiler's table of one step: the operations that took longest on the device."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=60)


def describe_size(size: Size) -> str:
    """The size of a step as text."""
    answers = f"1 chosen + {size.num_rejected} rejected of {size.num_answer_tokens} tokens"
    return f"{size.name}, {math.prod(size.grid) // 4} visual tokens, {answers}"


def share_of_peak(size: Size, model: Any, group: Any, seconds: float, peak: float | None) -> str:
    """The share of the chip's peak that the packed step reaches, as text."""
    config = model.config
    work = packed_step_flops(config, group.lengths, size.grid, lora_rank=LORA["lora_rank"])
    rate = f"{work / 1e12:.3g} TFLOP a step, {work / seconds / 1e12:.3g} TFLOP/s"
    if peak is None:
        return f"{rate}, peak unknown: set --peak-tflops"
    share = f"{work / seconds / peak:.1%} of the peak of {peak / 1e12:.0f}"
    return f"{rate}, {share} (formula in flops.py; recomputation not counted)"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also on a CPU")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one warm-up step")
    parser.add_argument(
        "--vision-attention", default="sdpa", help="attention of the vision tower, for both forms"
    )
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of a chip not in flops.py")
    return parser.parse_args(arguments)


def measure(size: Size, device: Any, arguments: argparse.Namespace) -> Row:
    """Measures both forms, then the parts and the profile of the packed one; prints all results."""
    import torch

    meter = Meter(device)
    model = make_model(size, device, vision_attention=arguments.vision_attention)
    group = make_video_group(size, model.dtype)
    policy = make_policy(model, checkpointing=True)
    forms = {
        "packed": functools.partial(packed_step, policy, group),
        "duplicated": functools.partial(duplicated_step, policy, group, one_batch=False),
    }
    results = {name: run_form(form, policy, meter, arguments.steps) for name, form in forms.items()}
    print(forms_table(results, size.num_rejected))
    parts = time_parts(policy, group, meter).items()
    print(
        "\n" + table(["part of a packed step", "seconds"], [[name, f"{spent:.3g}"] for name, spent in parts])
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = arguments.peak_tflops * 1e12 if arguments.peak_tflops else peak_flops(name)
    print("\n" + share_of_peak(size, policy.model, group, results["packed"][0].seconds, peak))
    print("\n" + profile(forms["packed"], device))
    return rate_row(
        NAME,
        f"{describe_size(size)}, {name}",
        ours=results["packed"][0],
        peer=results["duplicated"][0],
        peer_name="duplicated",
        count=size.num_rejected,
        unit="pairs/s",
    )


def forms_table(results: dict[str, tuple[Summary, float]], num_pairs: int) -> str:
    """Rate and memory of both forms."""
    lines = [
        [name, f"{num_pairs / summary.seconds:.3g}", f"{summary.peak_megabytes:.0f}", f"{peak:.0f}"]
        for name, (summary, peak) in results.items()
    ]
    return table(["form", "pairs/s", "peak MB above the model", "peak MB in total"], lines)


def main(given: list[str] | None = None) -> None:
    """Prints the results and, except for --tiny, writes the row to out/bench.json."""
    import torch
    import transformers

    arguments = parse(given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = TINY if arguments.tiny else SEVEN_B
    if device.type == "cpu" and not arguments.tiny:
        raise SystemExit("no GPU here; use --tiny to check the script on a CPU")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {describe_size(size)}\n")
    row = measure(size, device, arguments)
    print(rows_table([row]))
    if not arguments.tiny:
        add_rows([row])


if __name__ == "__main__":
    main()
