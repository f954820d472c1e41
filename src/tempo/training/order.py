"""The order in which a phase takes its examples, and the batches of one process, read ahead."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from tempo.config import PhaseConfig, SftPhase
from tempo.core.hashing import derive_seed
from tempo.model.prefix import Group
from tempo.training.examples import Example, LoadedExample
from tempo.training.metrics import ACCURACIES, level_metric

#: Batches that the accuracy of a level is averaged over. In the first step of a phase, policy and reference
#: are equal and every accuracy is 0: a mean over all batches would include it, and one batch is noise.
NUM_RECENT = 4


class Curriculum:
    """The batches of a phase, each example once per epoch.

    `order = "random"` is a seeded permutation per epoch. `"adaptive"` takes the easiest level (the largest
    number) in that permutation until its accuracy over recent batches reaches `mastered_accuracy` or it has
    no examples left, then the next harder level. After the hardest level, the examples that were left
    out follow, hardest level first. Batches are filled across levels, so their number is always the same.
    """

    def __init__(self, examples: Sequence[Example], phase: PhaseConfig, *, seed: int) -> None:
        self._examples = examples
        self._phase = phase
        self._seed = seed
        self._levels = tuple(sorted({self._level(example) for example in examples}, reverse=True))
        self._queues: list[list[Example]] = []
        #: Position of the present level in `_levels`, and (number right, number) of its recent batches.
        self._present = 0
        self._recent: list[tuple[int, int]] = []
        self._start_epoch(0)

    @property
    def num_batches(self) -> int:
        """Number of batches over all epochs."""
        return self._phase.epochs * math.ceil(len(self._examples) / self._phase.batch_size)

    def batches(self, rows: Sequence[Mapping[str, float]]) -> Iterator[list[Example]]:
        """All batches in order. `rows` grows meanwhile: the metrics of the steps that were taken.

        A batch is chosen while the batch before it is trained on, so it depends on the metrics of those
        before that one. With the same rows the batches are the same, which is how a stopped phase resumes.
        """
        batches: list[list[Example]] = []
        while batch := self._next_batch():
            batches.append(batch)
            yield batch
            if len(batches) >= 2:
                self._record(batches[-2], rows[len(batches) - 2])

    def _next_batch(self) -> list[Example]:
        """Up to `batch_size` examples of one epoch; empty after the last epoch."""
        if not any(self._queues) and self._epoch + 1 < self._phase.epochs:
            self._start_epoch(self._epoch + 1)
        batch: list[Example] = []
        while any(self._queues) and len(batch) < self._phase.batch_size:
            batch.append(self._take())
        return batch

    def _record(self, batch: Sequence[Example], row: Mapping[str, float]) -> None:
        """Moves to the next level if this batch shows that the present one is mastered."""
        if isinstance(self._phase, SftPhase) or self._present + 1 >= len(self._levels):
            return
        level = self._levels[self._present]
        count = sum(label.level == level for example in batch for label in example.labels)
        if not count:
            return
        # A row holds the share of right pairs, rounded.
        right = round(row[level_metric(ACCURACIES, level)] * count)
        self._recent = [*self._recent, (right, count)][-NUM_RECENT:]
        total_right, total = (sum(column) for column in zip(*self._recent, strict=True))
        if total_right / total >= self._phase.mastered_accuracy:
            self._move_to(self._present + 1)

    def _level(self, example: Example) -> int:
        """The level that decides the order. Without an adaptive order there is a single level, 0."""
        if isinstance(self._phase, SftPhase) or self._phase.order == "random":
            return 0
        levels = {label.level for label in example.labels}
        assert len(levels) == 1, f"{example.id} has levels {levels}"
        return levels.pop()

    def _start_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._phase.name, "order", epoch))
        permutation = torch.randperm(len(self._examples), generator=generator).tolist()
        shuffled = [self._examples[index] for index in reversed(permutation)]
        # Reversed, so that `pop` takes the first.
        self._queues = [[e for e in shuffled if self._level(e) == level] for level in self._levels]
        self._epoch = epoch
        self._move_to(0)

    def _move_to(self, position: int) -> None:
        self._present = position
        self._recent = []

    def _take(self) -> Example:
        left = [position for position, queue in enumerate(self._queues) if queue]
        position = next((p for p in left if p >= self._present), left[-1])
        if position > self._present:
            self._move_to(position)
        return self._queues[position].pop()


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step that this process computes.

    A filler has an example that must not count: there are fewer examples than processes, and every process
    must call the model.
    """

    examples: Sequence[LoadedExample]
    is_filler: bool = False
    decode_seconds: float = 0.0
    waiting_seconds: float = 0.0


def load_batches(
    batches: Iterator[Sequence[Example]],
    load: Callable[[Example], Group],
    *,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """The batches with frames and tokens. A thread loads the next one while this one is in use.

    Process `rank` takes the examples number `rank`, `rank + num_processes` and so on of each batch.
    """

    def load_share(batch: Sequence[Example]) -> Batch:
        start = time.perf_counter()
        own = batch[rank::num_processes]
        loaded = [LoadedExample(example, load(example)) for example in own or batch[:1]]
        return Batch(loaded, is_filler=not own, decode_seconds=time.perf_counter() - start)

    with ThreadPoolExecutor(1, thread_name_prefix="frames") as thread:

        def begin() -> Future[Batch] | None:
            batch = next(batches, None)
            return thread.submit(load_share, batch) if batch else None

        future = begin()
        while future:
            start = time.perf_counter()
            loaded = future.result()
            waited = time.perf_counter() - start
            future = begin()
            yield replace(loaded, waiting_seconds=waited)
