"""One DPO step with each video encoded once, compared with the duplicated form and trl.DPOTrainer.

    python benchmarks/shared_prefix.py [--full | --grpo] [--no-trl] [--rounds 1] [--threads 2]

Every form gets the same checkpoint, images, texts, LoRA weights and optimizer, computes in float32 and runs
in a fresh process, in turn with the others. The time is that of a whole step: policy, reference, backward and
optimizer, without the processor's work on the images. Peers:

    duplicated               the plain form, pair by pair: two full sequences, through policy and reference
    duplicated, one batch    the same, all pairs in one backward pass, as a device batch of all pairs
    trl                      trl.DPOTrainer, all pairs of the video in one batch
    trl, accumulated         trl.DPOTrainer, one pair at a time with gradient accumulation

`--grpo` compares an update of GRPO on eight answers, without sampling them, with one full sequence each.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from harness import (
    Measured,
    Row,
    Summary,
    add_rows,
    in_turn,
    quiet_environment,
    rate_row,
    relative_difference,
    rows_table,
    table,
)
from material import Setting, checkpoint, make_group, make_material
from policies import BETA, make_policy, take_steps, warm_up
from trl_peer import measure_trl

NAME = "dpo_step"
#: Visual tokens of the prompt, rejected answers, tokens of an answer.
GRID = tuple(product((512, 2048, 8192), (1, 3), (50, 300)))


def packed_step(policy: Any, group: Any, *, lap: Callable[[str], None] = lambda part: None) -> float:
    """Our step: one vision pass, then one row of all answers for the reference and one for the policy.

    `lap` is called with the name of each part when it is done.
    """
    import torch

    from tempo.model.prefix import encode_videos, packed_log_probs
    from tempo.training.losses import dpo_loss

    with torch.no_grad():
        features = encode_videos(policy.model, [group])
    lap("vision")
    with policy.reference() as reference_model:
        reference = packed_log_probs(reference_model, [group], video_features=features)[0]
    lap("reference")
    own = packed_log_probs(policy.model, [group], video_features=features)[0]
    lap("policy, forward")
    loss, _ = dpo_loss(own, reference, beta=BETA)
    loss.backward()
    lap("policy, backward")
    return float(loss.detach())


def duplicated_step(policy: Any, group: Any, *, one_batch: bool) -> float:
    """The duplicated form, with one backward pass per pair or one for all."""
    import torch

    from tempo.model.support import duplicated_log_probs
    from tempo.training.losses import dpo_loss

    losses = []
    num_pairs = len(group.continuations) - 1
    for pair in pairs_of(group):
        with policy.reference() as reference_model:
            reference = duplicated_log_probs(reference_model, [pair])[0]
        own = duplicated_log_probs(policy.model, [pair])[0]
        losses.append(dpo_loss(own, reference, beta=BETA)[0] / num_pairs)
        if not one_batch:
            losses[-1].backward()
    total = torch.stack(losses).sum()
    if one_batch:
        total.backward()
    return float(total.detach())


def grpo_step(policy: Any, group: Any, *, is_packed: bool) -> float:
    """An update of GRPO on the answers of a group: one row, or one sequence and backward pass per answer."""
    from tempo.model.prefix import Group, packed_log_probs
    from tempo.model.support import duplicated_log_probs
    from tempo.training.grpo import grpo_loss

    answers, total = group.continuations, 0.0
    score = packed_log_probs if is_packed else duplicated_log_probs
    for number, part in enumerate([answers] if is_packed else [(answer,) for answer in answers]):
        own = score(policy.model, [Group(group.inputs, part)])[0]
        advantages = [(-1.0) ** (number + index) for index in range(len(part))]
        summed, _ = grpo_loss(own, [logp.detach() for logp in own], advantages)
        loss = summed / sum(answer.num_scored for answer in answers)
        loss.backward()
        total += float(loss.detach())
    return total


def pairs_of(group: Any) -> Iterator[Any]:
    """One group per rejected answer."""
    from tempo.model.prefix import Group

    chosen, *rejected = group.continuations
    for answer in rejected:
        yield Group(group.inputs, (chosen, answer))


def measure(form: Callable[[Any, Any], float], setting: Setting) -> Measured:
    """Measures one of our forms in this process."""
    material = make_material(setting)
    warm_up(material.lm)
    group = make_group(material)
    policy = make_policy(material.lm.model)
    return take_steps(policy, lambda: form(policy, group), setting.steps)


FORMS: dict[str, Callable[[Setting], Measured]] = {
    "packed": functools.partial(measure, packed_step),
    "duplicated": functools.partial(measure, functools.partial(duplicated_step, one_batch=False)),
    "duplicated, one batch": functools.partial(measure, functools.partial(duplicated_step, one_batch=True)),
    "trl": functools.partial(measure_trl, accumulate=False),
    "trl, accumulated": functools.partial(measure_trl, accumulate=True),
}


GRPO_FORMS: dict[str, Callable[[Setting], Measured]] = {
    name: functools.partial(measure, functools.partial(grpo_step, is_packed=name == "packed"))
    for name in ("packed", "duplicated")
}


def compare(setting: Setting, names: Sequence[str], *, rounds: int) -> tuple[list[Row], dict[str, Summary]]:
    """Compares packed with the named peers; prints the results, returns the rows and all summaries."""
    results = in_turn({name: FORMS[name] for name in ("packed", *names)}, setting, rounds=rounds)
    pairs = setting.num_rejected
    print(f"\n{setting}, {setting.threads} thread(s), median of {rounds} x {setting.steps} steps\n")
    lines = [
        [
            name,
            f"{pairs / summary.seconds:.3g}",
            f"{summary.peak_megabytes:.0f}",
            " ".join(f"{loss:.5f}" for loss in summary.losses),
            f"{relative_difference(*map(np.array, (results['packed'].losses, summary.losses))):.1e}",
        ]
        for name, summary in results.items()
    ]
    header = ["form", "pairs/s", "peak MB above the model", "loss of the first steps", "losses differ by"]
    print(table(header, lines), flush=True)
    rows = [
        rate_row(
            NAME,
            str(setting),
            ours=results["packed"],
            peer=results[name],
            peer_name=name,
            count=pairs,
            unit="pairs/s",
        )
        for name in names
    ]
    return rows, results


def quick(make_setting: Callable[..., Setting], peers: Sequence[str], *, rounds: int) -> Iterator[Row]:
    """The pairs of a level and of a whole video at 2,048 visual tokens, and peers with one pair at a time."""
    names = [name for name in peers if name in ("duplicated", "trl, accumulated")]
    for rejected in (3, 12):
        yield from compare(make_setting(2048, rejected, 50, steps=1), names, rounds=rounds)[0]


def grpo(make_setting: Callable[..., Setting], peers: Sequence[str], *, rounds: int) -> Iterator[Row]:
    """Eight sampled answers at 2,048 visual tokens."""
    setting = make_setting(2048, 7, 50, steps=2)
    ours, peer = in_turn(GRPO_FORMS, setting, rounds=rounds).values()
    name, unit = "embedded, 2048 visual tokens, 8 answers of 50 tokens", "answers/s"
    yield rate_row("grpo_step", name, ours=ours, peer=peer, peer_name="duplicated", count=8, unit=unit)


def full(make_setting: Callable[..., Setting], peers: Sequence[str], *, rounds: int) -> Iterator[Row]:
    """The whole grid with all peers; one rejected answer is one pair, with nothing to accumulate."""
    for visual, rejected, answer in GRID:
        names = [name for name in peers if rejected > 1 or name in ("duplicated", "trl")]
        yield from compare(make_setting(visual, rejected, answer, steps=2), names, rounds=rounds)[0]


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--full", action="store_true", help="the whole grid, all peers: an hour or more")
    which.add_argument("--grpo", action="store_true", help="a step of GRPO")
    parser.add_argument("--model", default="embedded", help="embedded, small or a checkpoint's directory")
    parser.add_argument("--no-trl", action="store_true", help="skip trl.DPOTrainer")
    parser.add_argument("--rounds", type=int, default=1, help="fresh processes per form")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Prints the tables and writes each comparison to out/bench.json as soon as it is done."""
    arguments = parse()
    quiet_environment(arguments.threads)
    has_trl = not arguments.no_trl and importlib.util.find_spec("trl") is not None
    if not has_trl:
        print("TRL is skipped. To include it: pip install -c constraints.txt '.[bench]'")
    peers = [name for name in FORMS if name != "packed" and (has_trl or not name.startswith("trl"))]
    path = checkpoint(arguments.model)
    make_setting = functools.partial(Setting, arguments.model, path, threads=arguments.threads)
    rows = []
    part = full if arguments.full else grpo if arguments.grpo else quick
    for row in part(make_setting, peers, rounds=arguments.rounds):
        rows.append(row)
        add_rows([row])
    print("\n" + rows_table(rows))


if __name__ == "__main__":
    main()
