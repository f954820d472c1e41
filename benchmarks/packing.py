"""One DPO step of several videos of different lengths: without padding, compared with padded batches.

    python benchmarks/packing.py [--rounds 3] [--threads 2]

All forms use the code of training on the same videos and LoRA weights, in float32. `packed` is what training
does: the videos follow each other in one row of at most `training.max_tokens` tokens. `a row each` computes
one row per video and adds up the gradients. In `padded`, each video has as many tokens as the longest one of
the step, as in a batch: the padding is an answer without a loss.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness import Measured, Row, add_rows, in_turn, quiet_environment, rate_row, rows_table
from material import Material, answer_ending, load_lm, make_answer, make_group, make_images, prompt_text
from policies import make_policy, take_steps, warm_up

NAME = "packing"


@dataclass(frozen=True)
class PackingSetting:
    """The visual tokens of each video, and the tokens of its answers, chosen first."""

    visual: tuple[int, ...] = (512, 768, 1280, 2048)
    answers: tuple[int, ...] = (60, 40, 50, 80)
    steps: int = 2
    side: int = 256
    threads: int = 2


def make_groups(setting: PackingSetting) -> tuple[Any, list[Any]]:
    """The model, and one group per video of noise with random words."""
    lm = load_lm("embedded", side=setting.side, threads=setting.threads)
    make, groups = partial(make_answer, lm.tokenizer, ending=answer_ending(lm)), []
    for number, visual in enumerate(setting.visual):
        images = make_images(lm.processor, visual, setting.side)
        texts = [make(size, seed=10 * number + index) for index, size in enumerate(setting.answers)]
        material = Material(lm, images, prompt_text(lm, len(images)), tuple(texts), answer_ending(lm))
        groups.append(make_group(material))
    return lm, groups


def rows_of(groups: list[Any], form: str) -> list[list[Any]]:
    """The groups in the rows of a form."""
    from tempo.model.prefix import MAX_TOKENS, ContinuationTokens
    from tempo.training.examples import Example, pack_rows

    if form == "padded":
        longest = max(sum(group.lengths) for group in groups)
        gaps = [longest - sum(group.lengths) for group in groups]
        padding = [ContinuationTokens((0,) * gap, num_context=gap) for gap in gaps]
        groups = [
            replace(group, continuations=(*group.continuations, more)) if more.token_ids else group
            for group, more in zip(groups, padding, strict=True)
        ]
    if form == "a row each":
        return [[group] for group in groups]
    rows = pack_rows([(Example("", ""), group) for group in groups], max_tokens=MAX_TOKENS)
    return [[group for _, group in row] for row in rows]


def num_tokens(rows: list[list[Any]]) -> int:
    """The tokens of all rows."""
    return sum(sum(group.lengths) for row in rows for group in row)


def measure(form: str, setting: PackingSetting) -> Measured:
    """Measures one form in this process."""
    from tempo.config import DpoPhase
    from tempo.training.examples import Example
    from tempo.training.trainer import phase_loss

    lm, groups = make_groups(setting)
    warm_up(lm)
    rows, policy = rows_of(groups, form), make_policy(lm.model)
    phase = DpoPhase(name="bench", objective="dpo", learning_rate=1e-4, nll_weight=0)
    num_answers = len(setting.answers)
    num_pairs = len(setting.visual) * (num_answers - 1)

    def step() -> float:
        total = 0.0
        for row in rows:
            own, reference = ([answers[:num_answers] for answers in logps] for logps in policy(row))
            loss = phase_loss(phase, own, reference, [Example("", "")] * len(row))[0] / num_pairs
            loss.backward()
            total += float(loss.detach())
        return total

    return take_steps(policy, step, setting.steps)


FORMS = {form: partial(measure, form) for form in ("packed", "a row each", "padded")}


def main(given: list[str] | None = None) -> list[Row]:
    """Prints the table and writes its rows to out/bench.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per form")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(given)
    quiet_environment(arguments.threads)
    setting = PackingSetting(threads=arguments.threads)
    _, groups = make_groups(setting)
    real = num_tokens([groups])
    shares = {form: real / num_tokens(rows_of(groups, form)) for form in FORMS}
    results = in_turn(FORMS, setting, rounds=arguments.rounds)
    for form, summary in results.items():
        losses = " ".join(f"{loss:.6f}" for loss in summary.losses)
        print(f"{form}: {shares[form]:.1%} of the tokens are real; losses {losses}")
    sizes = f"{len(groups)} videos of {min(setting.visual)} to {max(setting.visual)} visual tokens"
    rows = [
        rate_row(
            NAME,
            f"embedded, {sizes}, {shares['packed']:.1%} of the tokens are real (peer: {shares[form]:.1%})",
            ours=results["packed"],
            peer=results[form],
            peer_name=form,
            count=len(groups) * (len(setting.answers) - 1),
            unit="pairs/s",
        )
        for form in list(FORMS)[1:]
    ]
    add_rows(rows)
    print("\n" + rows_table(rows))
    return rows


if __name__ == "__main__":
    main()
