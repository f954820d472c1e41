"""Groups made ahead of time: while a step computes, a thread reads the frames of the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from tempo.model.prefix import Group
from tempo.training.groups import Lesson


@dataclass(frozen=True)
class Batch:
    """This process's part of one optimizer step: lessons and their groups.

    A `is_filler` batch counts nothing: there were fewer lessons than processes, and all must compute.
    """

    own: Sequence[Lesson]
    groups: Sequence[Group]
    decode_seconds: float = 0.0
    waiting_seconds: float = 0.0
    is_filler: bool = False


def load_batches(
    next_lessons: Callable[[], Sequence[Lesson]],
    make_group: Callable[[Lesson], Group],
    *,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Batches until `next_lessons` returns none. It is asked for a batch when the one before is handed out.

    Of `num_processes` this one takes every lesson number `rank`, `rank + num_processes`, ... of a batch.
    """

    def load(lessons: Sequence[Lesson]) -> Batch:
        start = time.perf_counter()
        own = lessons[rank::num_processes]
        made = own or lessons[:1]
        groups = [make_group(lesson) for lesson in made]
        return Batch(made, groups, time.perf_counter() - start, is_filler=not own)

    with ThreadPoolExecutor(1, thread_name_prefix="frames") as thread:

        def begin() -> Future[Batch] | None:
            lessons = next_lessons()
            return thread.submit(load, lessons) if lessons else None

        future = begin()
        while future:
            start = time.perf_counter()
            batch = future.result()
            waited = time.perf_counter() - start
            future = begin()
            yield replace(batch, waiting_seconds=waited)
