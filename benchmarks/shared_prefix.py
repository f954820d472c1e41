"""Time and peak memory of one DPO step, packed and duplicated, side by side in one run.

    python benchmarks/shared_prefix.py [--rejected 3] [--frames 64] [--answer 60]

The model is the embedded one; frames and words are made up, since only their number matters. Both forms
compute the same loss and gradients, and the difference is printed. Each form is timed in a fresh process,
in turn, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time

import numpy as np
import torch


def make_step(arguments):
    """The policy, the phase and the group that both forms work on."""
    from tempo.model.loading import load_video_lm
    from tempo.model.prefix import Continuation, Group
    from tempo.sections import ModelConfig, PhaseConfig
    from tempo.training.adapters import Policy

    torch.set_num_threads(arguments.threads)
    lm = load_video_lm(ModelConfig(path=arguments.model))
    # Pictures large enough to fill the prompt; the processor of the embedded model would shrink them.
    lm.processor.video_processor.size = {
        "shortest_edge": arguments.side**2,
        "longest_edge": arguments.side**2,
    }
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, size=(arguments.frames, arguments.side, arguments.side, 3), dtype=np.uint8)
    group = lm.answer_group(frames, "Describe the video in detail.", ["x"], fps=1.0)
    answers = rng.integers(20, 500, size=(arguments.rejected + 1, arguments.answer)).tolist()
    group = Group(group.inputs, tuple(Continuation(tuple(answer)) for answer in answers))
    phase = PhaseConfig(name="bench", objective="dpo", learning_rate=1e-4, lora_rank=32)
    torch.manual_seed(0)
    policy = Policy(lm.model, phase)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return policy, phase, group


def packed(policy, phase, group):
    """Our step."""
    from tempo.training.trainer import dpo_row

    loss, _ = dpo_row(policy, [group], phase)
    loss.backward()
    return float(loss.detach())


def duplicated(policy, phase, group):
    """The step of other trainers: two full sequences per pair, through policy and reference."""
    from tempo.model.duplicated import duplicated_log_probs
    from tempo.model.prefix import Group
    from tempo.training.losses import dpo_terms

    total = 0.0
    for rejected in group.continuations[1:]:
        pair = Group(group.inputs, (group.continuations[0], rejected))
        with policy.reference() as reference_model:
            reference = duplicated_log_probs(reference_model, [pair])[0]
        own = duplicated_log_probs(policy.model, [pair])[0]
        loss = dpo_terms(own, reference, beta=phase.beta, nll_weight=phase.nll_weight).loss
        loss.backward()
        total += float(loss.detach())
    return total


def measure(form, arguments, queue):
    """Puts seconds per step, megabytes above the model's own, loss and gradients on the queue."""
    policy, phase, group = make_step(arguments)
    step = {"packed": packed, "duplicated": duplicated}[form]
    before = peak_megabytes()
    seconds = []
    for _ in range(arguments.steps + 1):
        for parameter in policy.parameters:
            parameter.grad = None
        start = time.perf_counter()
        loss = step(policy, phase, group)
        seconds.append(time.perf_counter() - start)
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters]).numpy()
    queue.put((seconds[1:], peak_megabytes() - before, loss, gradient, group.lengths[0]))


def peak_megabytes():
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Prints the table; with --json also one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rejected", type=int, default=3)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--side", type=int, default=128, help="pixels of a frame's side")
    parser.add_argument("--answer", type=int, default=60, help="tokens of an answer")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes of each form, in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = {"packed": [], "duplicated": []}
    for _ in range(arguments.rounds):
        for form, rows in results.items():
            queue = context.Queue()
            process = context.Process(target=measure, args=(form, arguments, queue))
            process.start()
            rows.append(queue.get())
            process.join()
    seconds = {form: statistics.median(s for row in rows for s in row[0]) for form, rows in results.items()}
    memory = {form: max(row[1] for row in rows) for form, rows in results.items()}
    ours, theirs = results["packed"][0], results["duplicated"][0]
    difference = float(np.linalg.norm(ours[3] - theirs[3]) / np.linalg.norm(theirs[3]))
    print(f"prompt {ours[4]} tokens, 1 chosen + {arguments.rejected} rejected of {arguments.answer} tokens")
    for form in results:
        rate = f"{seconds[form]:.3f} s a step, {arguments.rejected / seconds[form]:.2f} pairs/s"
        print(f"{form:>10}: {rate}, {memory[form]:.0f} MB above the model")
    speed, room = seconds["duplicated"] / seconds["packed"], memory["packed"] / memory["duplicated"]
    print(f"packed is {speed:.2f}x as fast in {room:.2f}x the memory")
    print(f"relative gradient difference {difference:.1e}")
    if arguments.json:
        row = {"seconds": seconds, "megabytes": memory, "ratio": speed, "gradient_difference": difference}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
