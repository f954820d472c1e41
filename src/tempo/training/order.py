"""The order in which a phase takes its examples, and the batches of one process, read ahead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from tempo.config import DpoPhase, PhaseConfig
from tempo.core.hashing import derive_seed
from tempo.model.prefix import Group
from tempo.training.examples import Example, LoadedExample
from tempo.training.metrics import ACCURACIES

#: Batches that the accuracy of a level is averaged over. In the first step of a phase, policy and reference
#: are equal and every accuracy is 0: a mean over all batches would include it, and one batch is noise.
NUM_RECENT = 4


def plan_batches(
    examples: Sequence[Example], phase: PhaseConfig, rows: Sequence[Mapping[str, float]], *, seed: int
) -> Iterator[list[Example]]:
    """The batches of a phase, each example once per epoch.

    `order = "random"` is a seeded permutation per epoch. `"adaptive"` takes the easiest level (the largest
    number) in that permutation until its accuracy over recent batches reaches `mastered_accuracy` or it has
    no examples left, then the next harder level. After the hardest level, the examples that were left
    out follow, hardest level first. Batches are filled across levels, so their number is always the same.

    `rows` are the metrics of the steps taken, and grow meanwhile. A batch is chosen while the one before is
    trained on, so it depends on the metrics of earlier ones only. The same rows give the same batches.
    """
    levels = sorted({_level(example, phase) for example in examples}, reverse=True)
    num_taken = 0
    previous: list[Example] = []
    for epoch in range(phase.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, phase.name, "order", epoch))
        permutation = torch.randperm(len(examples), generator=generator).tolist()
        # Reversed, so that `pop` takes the first.
        shuffled = [examples[index] for index in reversed(permutation)]
        queues = [[e for e in shuffled if _level(e, phase) == level] for level in levels]
        present = 0
        recent: list[tuple[int, int]] = []
        while any(queues):
            batch: list[Example] = []
            while any(queues) and len(batch) < phase.batch_size:
                left = [position for position, queue in enumerate(queues) if queue]
                position = next((p for p in left if p >= present), left[-1])
                if position > present:
                    present, recent = position, []
                batch.append(queues[position].pop())
            yield batch
            num_taken += 1
            if num_taken > 1 and present + 1 < len(levels):
                recent += _count_right(previous, levels[present], rows[num_taken - 2])
                if _is_mastered(recent[-NUM_RECENT:], phase):
                    present, recent = present + 1, []
            previous = batch


def _level(example: Example, phase: PhaseConfig) -> int:
    """The level that decides the order. Without an adaptive order there is a single level, 0."""
    if not isinstance(phase, DpoPhase) or phase.order == "random":
        return 0
    (level,) = {level for _, level in example.labels}
    return level


def _count_right(batch: Sequence[Example], level: int, row: Mapping[str, float]) -> list[tuple[int, int]]:
    """The pairs of a level in a batch as (number right, number); empty if there are none."""
    count = sum(own == level for example in batch for _, own in example.labels)
    # A row holds the share of right pairs, rounded.
    return [(round(row[f"{ACCURACIES}/level_{level}"] * count), count)] if count else []


def _is_mastered(recent: Sequence[tuple[int, int]], phase: PhaseConfig) -> bool:
    right, count = (sum(column) for column in zip(*recent, strict=True)) if recent else (0, 0)
    return isinstance(phase, DpoPhase) and count > 0 and right / count >= phase.mastered_accuracy


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step that this process computes.

    A filler, where there are fewer examples than processes, has one that must not count: each process must
    call the model.
    """

    examples: Sequence[LoadedExample]
    is_filler: bool = False
    waiting_seconds: float = 0.0


def load_batches(
    batches: Iterator[Sequence[Example]], load: Callable[[Example], Group], *, rank: int, num_processes: int
) -> Iterator[Batch]:
    """The batches with frames and tokens. A thread loads the next one while this one is in use.

    Process `rank` takes the examples number `rank`, `rank + num_processes` and so on of each batch.
    """

    def load_share(batch: Sequence[Example]) -> tuple[list[LoadedExample], bool]:
        own = batch[rank::num_processes]
        return [LoadedExample(example, load(example)) for example in own or batch[:1]], not own

    with ThreadPoolExecutor(1, thread_name_prefix="frames") as thread:
        futures = (thread.submit(load_share, batch) for batch in batches)
        future = next(futures, None)
        while future:
            start = time.perf_counter()
            loaded, is_filler = future.result()
            waiting_seconds = time.perf_counter() - start
            future = next(futures, None)
            yield Batch(loaded, is_filler, waiting_seconds)
