"""In which order a phase takes its lessons: at random, or as fast as the model masters their levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tempo.config import PhaseConfig
from tempo.core.seeds import derive_seed
from tempo.training.groups import Lesson
from tempo.training.losses import ACCURACIES, Metrics, level_metric

#: Batches whose accuracy counts. At a phase's first step policy and reference are equal and every accuracy
#: is 0; a mean over all batches would drag that along, and a single batch would be luck.
NUM_RECENT = 4


class Curriculum:
    """The batches of a phase, each lesson once an epoch; what is learned in one may decide the next.

    `order = "random"` is a seeded permutation per epoch. `"adaptive"` takes the easiest level (the largest)
    in that permutation until the accuracy of its recent batches reaches `mastered_accuracy` or nothing of it
    is left, then the next harder one. When the hardest is used up, what was left over follows, hardest first.
    Batches are filled across levels, so there are as many as in any other order.
    """

    def __init__(self, lessons: Sequence[Lesson], phase: PhaseConfig, *, seed: int) -> None:
        self._lessons = lessons
        self._phase = phase
        self._seed = seed
        levels = {self._level(lesson) for lesson in lessons}
        self._levels = tuple(sorted(levels, reverse=True))
        self._queues: list[list[Lesson]] = []
        self._taken: list[int] = []
        self._recent: list[tuple[float, int]] = []
        self._begin(0)

    @property
    def num_batches(self) -> int:
        """Batches of all epochs together."""
        return self._phase.epochs * math.ceil(len(self._lessons) / self._phase.batch_size)

    def next_batch(self) -> list[Lesson]:
        """Up to `batch_size` lessons of one epoch; none when all epochs are over."""
        if not self._left() and self._epoch + 1 < self._phase.epochs:
            self._begin(self._epoch + 1)
        batch: list[Lesson] = []
        while self._left() and len(batch) < self._phase.batch_size:
            batch.append(self._take())
        return batch

    def feedback(self, metrics: Metrics) -> None:
        """Takes note of what a batch came to, summed over its groups and ranks."""
        if self._phase.objective == "sft" or self._present + 1 >= len(self._levels):
            return
        name = level_metric(ACCURACIES, self._levels[self._present])
        if name not in metrics.sums:
            return
        self._recent = [*self._recent, metrics.sums[name]][-NUM_RECENT:]
        right, count = (sum(column) for column in zip(*self._recent, strict=True))
        if right / count >= self._phase.mastered_accuracy:
            self._move_to(self._present + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain numbers and lists."""
        return {
            "sizes": [len(queue) for queue in self._queues],
            "epoch": self._epoch,
            "taken": list(self._taken),
            "present": self._present,
            "recent": [list(row) for row in self._recent],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of the same lessons; raises ValueError if they are not as many."""
        sizes = [len(queue) for queue in self._queues]
        if state["sizes"] != sizes:
            raise ValueError(
                f"phase {self._phase.name!r} was stopped with {state['sizes']} lessons per level, now it has "
                f"{sizes}; remove its directory, so that it begins again"
            )
        self._begin(state["epoch"])
        self._taken = list(state["taken"])
        self._present = state["present"]
        self._recent = [(right, count) for right, count in state["recent"]]

    def _level(self, lesson: Lesson) -> int:
        """The level that decides; a random order is a curriculum of a single one."""
        if self._phase.objective == "sft" or self._phase.order == "random":
            return 0
        levels = {label.level for label in lesson.labels}
        assert len(levels) == 1, f"{lesson.id} has levels {levels}"
        return levels.pop()

    def _begin(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._phase.name, "order", epoch))
        shuffled = [
            self._lessons[i] for i in torch.randperm(len(self._lessons), generator=generator).tolist()
        ]
        self._queues = [
            [lesson for lesson in shuffled if self._level(lesson) == level] for level in self._levels
        ]
        self._epoch = epoch
        self._taken = [0] * len(self._levels)
        self._move_to(0)

    def _move_to(self, position: int) -> None:
        self._present = position
        self._recent = []

    def _left(self) -> list[int]:
        """Positions of the levels that still have lessons, easiest first."""
        return [i for i, queue in enumerate(self._queues) if self._taken[i] < len(queue)]

    def _take(self) -> Lesson:
        left = self._left()
        position = next((i for i in left if i >= self._present), left[-1])
        if position > self._present:
            self._move_to(position)
        self._taken[position] += 1
        return self._queues[position][self._taken[position] - 1]
