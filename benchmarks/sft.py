"""Instruction tuning over one prefix, compared with one question per row: same losses and gradients.

    python benchmarks/sft.py [--questions 5] [--visual-tokens 2048] [--model embedded]

Ours encodes the video once and packs all its questions and answers after it. The plain form does what other
trainers do: a row `[video; question; answer]` per question, each with its own vision and backward pass. Both
compute the mean negative log-likelihood of all answer tokens and step the optimizer once per video. Frames
are passed as a video.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Measured, Row, add_rows, in_turn, quiet_environment, rate_row, rows_table
from material import checkpoint, load_lm, make_answer
from policies import make_policy, take_steps, warm_up

NAME = "sft_step"


@dataclass(frozen=True)
class SftSetting:
    """One video and its questions; `path` is that of the checkpoint, `side` is in pixels."""

    model: str
    path: str
    num_visual_tokens: int
    num_questions: int
    num_question_tokens: int = 15
    num_answer_tokens: int = 30
    steps: int = 1
    side: int = 256
    threads: int = 1

    def __str__(self) -> str:
        words = f"{self.num_question_tokens} + {self.num_answer_tokens} tokens"
        return (
            f"{self.model}, {self.num_visual_tokens} visual tokens, {self.num_questions} questions of {words}"
        )


def make_questions(setting: SftSetting) -> tuple[Any, Any]:
    """The model, and all questions about the video as one group."""
    lm = load_lm(setting.path, side=setting.side, threads=setting.threads)
    from tempo.model.chat import Continuation, Prefix

    questions = [
        Continuation(
            make_answer(
                lm.tokenizer,
                setting.num_answer_tokens,
                lm.template.after_answer[True].strip(),
                seed=2 * index + 1,
            ),
            make_answer(lm.tokenizer, setting.num_question_tokens, "", seed=2 * index),
        )
        for index in range(setting.num_questions)
    ]
    frames = make_frames(lm.processor.video_processor, setting.num_visual_tokens, setting.side)
    return lm, lm.group(Prefix(frames, ""), questions)


def make_frames(processor: Any, num_visual_tokens: int, side: int) -> np.ndarray:
    """Frames of noise, uint8 [T, side, side, 3]; raises ValueError if the tokens do not fit."""
    each = (side // (processor.patch_size * processor.merge_size)) ** 2
    if not each or num_visual_tokens % each:
        raise ValueError(
            f"{num_visual_tokens} visual tokens are not a multiple of {each}, the tokens of a time step"
        )
    count = num_visual_tokens // each * processor.temporal_patch_size
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def packed_step(policy: Any, group: Any) -> float:
    """Our step: one vision pass, one row."""
    import torch

    from tempo.model.prefix import encode_videos, packed_log_probs
    from tempo.training.losses import sft_loss

    with torch.no_grad():
        features = encode_videos(policy.model, [group])
    loss, _ = sft_loss(packed_log_probs(policy.model, [group], video_features=features)[0])
    loss.backward()
    return float(loss.detach())


def plain_step(policy: Any, group: Any) -> float:
    """The plain form: one row per question, gradients accumulated."""
    from tempo.model.prefix import Group
    from tempo.model.support import duplicated_log_probs

    num_scored = sum(continuation.num_scored for continuation in group.continuations)
    total = 0.0
    for continuation in group.continuations:
        row = Group(group.inputs, (continuation,))
        loss = -duplicated_log_probs(policy.model, [row])[0][0].sum() / num_scored
        loss.backward()
        total += float(loss.detach())
    return total


def measure(form: Any, setting: SftSetting) -> Measured:
    """Measures one form in this process."""
    lm, group = make_questions(setting)
    warm_up(lm)
    policy = make_policy(lm.model, "sft")
    return take_steps(policy, lambda: form(policy, group), setting.steps)


FORMS = {
    "packed": functools.partial(measure, packed_step),
    "one question per row": functools.partial(measure, plain_step),
}


def compare(setting: SftSetting, *, rounds: int) -> Row:
    """The row of both forms."""
    results = in_turn(FORMS, setting, rounds=rounds)
    return rate_row(
        NAME,
        str(setting),
        ours=results["packed"],
        peer=results["one question per row"],
        peer_name="one question per row",
        count=setting.num_questions,
        unit="samples/s",
    )


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded", help="embedded, small or a checkpoint's directory")
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--visual-tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes per form")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Prints the table and writes its row to out/bench.json."""
    arguments = parse()
    quiet_environment(arguments.threads)
    setting = SftSetting(
        arguments.model,
        checkpoint(arguments.model),
        arguments.visual_tokens,
        arguments.questions,
        steps=arguments.steps,
        threads=arguments.threads,
    )
    row = compare(setting, rounds=arguments.rounds)
    add_rows([row])
    print("\n" + rows_table([row]))


if __name__ == "__main__":
    main()
