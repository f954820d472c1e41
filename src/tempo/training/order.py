"""The order of a phase's examples, and the batches of one process, loaded in advance."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from tempo.config import DpoPhase, PhaseConfig
from tempo.core.hashing import derive_seed
from tempo.model.prefix import Group
from tempo.training.examples import Example, LoadedExample
from tempo.training.metrics import ACCURACIES, Metrics

#: Number of batches that a level's accuracy is averaged over. In the first step of a phase, policy and
#: reference are equal and every accuracy is 0: a mean over all batches would include it. One is too few.
NUM_RECENT = 4


def plan_batches(
    examples: Sequence[Example], phase: PhaseConfig, rows: Sequence[Mapping[str, float]], *, seed: int
) -> Iterator[list[Example]]:
    """The batches of a phase, each example once per epoch, in the order of `phase.order` (see `DpoPhase`).

    Examples of a level, or all for `random`, are in a seeded permutation per epoch; the easiest level has the
    largest number. `adaptive` takes the examples that it left at the end, hardest level first. Batches are
    filled across levels, so their number is always the same.

    `rows` are the metrics of the steps taken; the caller appends to them during training. A batch is chosen
    during the step of the previous batch, so it depends only on the metrics of batches before that.
    """
    order = phase.order if isinstance(phase, DpoPhase) else "random"

    def level_of(example: Example) -> int:
        return 0 if order == "random" else example.labels[0][1]

    levels = sorted({level_of(example) for example in examples}, reverse=order != "hard_to_easy")
    num_taken = 0
    previous: list[Example] = []
    for epoch in range(phase.epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, phase.name, "order", epoch))
        permutation = torch.randperm(len(examples), generator=generator).tolist()
        # Reversed, so that `pop` takes the first.
        shuffled = [examples[index] for index in reversed(permutation)]
        queues = [[example for example in shuffled if level_of(example) == level] for level in levels]
        current = 0
        # Per batch, the number of correct pairs of the current level, and the number of all its pairs.
        recent: deque[tuple[int, int]] = deque(maxlen=NUM_RECENT)
        while any(queues):
            batch: list[Example] = []
            while any(queues) and len(batch) < phase.batch_size:
                left = [number for number, queue in enumerate(queues) if queue]
                chosen = next((number for number in left if number >= current), left[-1])
                if chosen > current:
                    current = chosen
                    recent.clear()
                batch.append(queues[chosen].pop())
            yield batch
            num_taken += 1
            level = levels[current]
            count = sum(own == level for example in previous for _, own in example.labels)
            may_go_on = order == "adaptive" and count and current + 1 < len(levels)
            if isinstance(phase, DpoPhase) and may_go_on:
                # A row has the rounded share of correct pairs.
                recent.append((round(rows[num_taken - 2][f"{ACCURACIES}/level_{level}"] * count), count))
                num_right, num_pairs = map(sum, zip(*recent, strict=True))
                if num_right / num_pairs >= phase.mastered_accuracy:
                    current += 1
                    recent.clear()
            previous = batch


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step that this process computes.

    Every process must call the model, so one without examples gets a filler: an example with weight 0.
    """

    examples: Sequence[LoadedExample]
    is_filler: bool = False
    waiting_seconds: float = 0.0
    #: Metrics of the examples themselves, such as the rewards of sampled answers.
    metrics: Metrics = field(default_factory=Metrics)


def load_batches(
    batches: Iterator[Sequence[Example]], load: Callable[[Example], Group], *, rank: int, num_processes: int
) -> Iterator[Batch]:
    """Yields batches with frames and tokens. A thread loads the next batch while this one is in use.

    Process `rank` takes examples number `rank`, `rank + num_processes` and so on of each batch.
    """

    def load_share(batch: Sequence[Example]) -> tuple[list[LoadedExample], bool]:
        own = batch[rank::num_processes]
        return [(example, load(example)) for example in own or batch[:1]], not own

    with ThreadPoolExecutor(1, thread_name_prefix="frames") as thread:
        futures = (thread.submit(load_share, batch) for batch in batches)
        future = next(futures, None)
        while future:
            start = time.perf_counter()
            loaded, is_filler = future.result()
            waiting_seconds = time.perf_counter() - start
            future = next(futures, None)
            yield Batch(loaded, is_filler, waiting_seconds)
