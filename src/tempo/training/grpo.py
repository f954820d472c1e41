"""GRPO: descriptions sampled from the current policy, rewards without labels, and the clipped loss.

K: answers to one video   N: tokens of an answer
"""

import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tempo.config import GrpoPhase, SamplingConfig
from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Pair, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.answers import Answer, Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.model.prefix import ContinuationTokens, Group, split_group
from tempo.preference.pairs import HELD_OUT
from tempo.preference.prompts import describe_prompt
from tempo.preference.verify import agreement
from tempo.training.examples import Example, LoadedExample
from tempo.training.metrics import Metrics
from tempo.training.order import Batch
from tempo.training.policy import Policy, autocast
from tempo.video.frames import FrameStore


def grpo_examples(context: Context) -> list[Example]:
    """One example per video with captions that is not held out, sorted by video; it has an empty answer.

    Raises ValueError if there is no such video.
    """
    store, config = RunStore(context.directory), context.config
    held_out = {file_of(pair.video_id) for pair in store.read(HELD_OUT, Pair)}
    names = sorted(row.id for row in store.read("captions", Captions) if file_of(row.id) not in held_out)
    if not names:
        raise ValueError(
            "objective 'grpo': there are no captions of videos that are not held out. `tempo status` shows "
            "why videos were skipped"
        )
    prompts, seed = config.responses.prompts, config.run.seed
    return [Example(f"{name}/grpo", name, describe_prompt(name, prompts, seed=seed), ("",)) for name in names]


class Sampler:
    """Samples K answers to each example of a batch from the current policy, with their advantages."""

    def __init__(self, context: Context, phase: GrpoPhase, lm: VideoLM, policy: Policy) -> None:
        self.context, self.phase, self.lm, self.policy = context, phase, lm, policy
        #: `generate` changes the tokenizer's padding, and `load` runs in another thread.
        self.lock = threading.Lock()
        self._captions = RunStore(context.directory).rows("captions", Captions)
        # The frames of a video are read once for `load` and for its answers, which then share an encoding.
        self._read = functools.lru_cache(2 * phase.batch_size)(FrameStore(context.directory / "frames").read)

    def load(self, example: Example) -> Group:
        """The tokens and pixels of a prompt, as in generation; it has no answers yet."""
        request = self._requests(example, 0)[0]
        with self.lock:
            return Group(self.lm.inputs([self.lm.template.render(request.prompt)], [request]), ())

    def __call__(self, batch: Batch, step: int) -> Batch:
        """The batch with the sampled tokens as answers, and metrics of their rewards.

        The answers to a video are divided into several rows if they exceed `training.max_tokens`.
        """
        start, config, count = time.perf_counter(), self.context.config, self.phase.num_answers
        # The distribution whose log-probabilities the loss uses.
        sampling = SamplingConfig(
            temperature=1.0, repetition_penalty=1.0, batch_size=config.responses.batch_size
        )
        requests = [request for example, _ in batch.examples for request in self._requests(example, step)]
        with self.lock, self.policy.in_evaluation(), autocast(self.lm.model.device, self.policy.dtype):
            limit = config.responses.max_new_tokens
            answers = generate(self.lm, requests, sampling=sampling, max_new_tokens=limit)
        examples, metrics = list[LoadedExample](), Metrics()
        for number, (example, group) in enumerate(batch.examples):
            own = answers[count * number : count * (number + 1)]
            rewards = score_answers(own, self._captions[example.video_id].captions, self.phase, metrics)
            left = group_advantages(rewards)
            tokens = tuple(ContinuationTokens(answer.token_ids) for answer in own)
            for part in split_group(Group(group.inputs, tokens), max_tokens=config.training.max_tokens):
                here, left = left[: len(part.continuations)], left[len(part.continuations) :]
                examples.append((replace(example, advantages=tuple(here)), part))
        waiting_seconds = batch.waiting_seconds + time.perf_counter() - start
        return Batch(examples, batch.is_filler, waiting_seconds, metrics)

    def _requests(self, example: Example, step: int) -> list[Request]:
        seed = derive_seed(self.context.config.run.seed, self.phase.name, step, example.video_id)
        stored = self._read(example.video_id)
        shown = stored.images, stored.fps, stored.seconds.tolist()
        seeds = (derive_seed(seed, number) for number in range(self.phase.num_answers))
        return [Request(example.prompt, one, *shown) for one in seeds]


def score_answers(
    answers: Sequence[Answer], captions: Sequence[str], phase: GrpoPhase, metrics: Metrics
) -> list[float]:
    """The reward of each answer, [K]; it is 0, the minimum, if the answer is empty or truncated.

    Otherwise it is `recall_weight` times the recall of the captions, plus `order_weight` times 1 minus the
    Kendall distance of their order (0 for fewer than two captions), all multiplied by the precision. Without
    the precision, the policy learns to repeat sentences until some of them are in order.
    """
    rewards = []
    for answer in answers:
        found = agreement(answer.text if answer.is_whole else "", captions)
        order = 0.0 if found.order is None else 1 - found.order
        rewards.append((phase.recall_weight * found.recall + phase.order_weight * order) * found.precision)
        values = {"reward": rewards[-1], **found._asdict(), "order": order}
        values |= {"length": len(answer.token_ids), "cut_off": not answer.is_whole}
        for name, value in values.items():
            metrics.count(name, value)
    metrics.count("reward_std", float(torch.tensor(rewards).std()))
    return rewards


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards [K] minus their mean, divided by their standard deviation (arXiv 2402.03300, section 4.1)."""
    rewards_K = torch.tensor(rewards, dtype=torch.float64)
    advantages: list[float] = ((rewards_K - rewards_K.mean()) / (rewards_K.std() + 1e-4)).tolist()
    return advantages


def grpo_loss(
    policy: Sequence[Tensor],
    old: Sequence[Tensor],
    advantages: Sequence[float],
    *,
    loss_type: Literal["dapo", "grpo"] = "dapo",
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
) -> tuple[Tensor, Metrics]:
    """The clipped loss of K answers, `-min(r * A, clip(r, 1 - epsilon, 1 + epsilon_high) * A)` of each token.

    Args:
        policy: token log-probabilities of each answer, each [N]; gradients flow into these.
        old: the same under the model that wrote the answers; r is the ratio of the probabilities.
        advantages: A of each answer.
        loss_type: as in TRL. `dapo` is the sum over the tokens of all answers (arXiv 2503.14476), `grpo` the
            sum of the means of the answers.

    Returns this sum, a scalar, and the metric `clip_ratio`, the share of tokens with a clipped loss.
    """
    lengths = torch.tensor([len(answer) for answer in policy], device=policy[0].device)
    own, before = torch.cat([*policy]), torch.cat([*old])
    advantage = torch.tensor(advantages, dtype=own.dtype, device=own.device).repeat_interleave(lengths)
    ratio = (own - before).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantage
    losses = -torch.minimum(plain, clipped)
    if loss_type == "grpo":
        losses = losses / lengths.repeat_interleave(lengths)
    metrics = Metrics({"clip_ratio": (float((clipped < plain).sum()), len(losses))})
    return losses.sum(), metrics
