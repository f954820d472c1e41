"""Asking models the questions of public benchmarks, with the prompts and frames of their authors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from tempo.config import Config, SamplingConfig
from tempo.config.running import PublicBenchmark, PublicBenchmarkConfig
from tempo.core.files import NUM_NAMED
from tempo.core.hashing import hash_text
from tempo.core.records import Outcome, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.evaluation.evaluate import answer_parts, ask, shown
from tempo.evaluation.public.data import Data
from tempo.evaluation.public.questions import Benchmark, Question
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate


@dataclass(frozen=True)
class Task:
    """A benchmark with its questions, bad rows, and the parts of videos that cannot be read.

    `replies` maps the name of the benchmark, and NAME, blind for questions without videos, to the replies of
    each model.
    """

    settings: PublicBenchmarkConfig
    benchmark: Benchmark
    data: Data
    questions: list[Question]
    bad_rows: list[Skipped]
    unreadable: dict[tuple[Any, ...], Skipped] = field(default_factory=dict)
    replies: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)

    @property
    def num_frames(self) -> int | None:
        """The number of evenly spaced frames; None for the rate frames.fps."""
        return self.settings.num_frames or self.benchmark.num_frames

    @property
    def prompts_hash(self) -> str:
        """A hash of all prompts, in order."""
        return hash_text("\n".join(f"{question.id} {question.prompt}" for question in self.questions))

    def asked(self) -> list[list[Question]]:
        """The questions about each part of a video that can be read, sorted by part."""
        asked = [question for question in self.questions if question.part not in self.unreadable]
        asked.sort(key=lambda question: (question.part, question.id))
        return [list(rows) for _, rows in groupby(asked, key=lambda question: question.part)]

    def check(self) -> None:
        """Raises ValueError with some reasons if no question can be asked."""
        if not self.asked():
            first = (*self.bad_rows, *self.unreadable.values())[:NUM_NAMED]
            reasons = "; ".join(f"{row.id}: {row.reason}, {row.detail}" for row in first)
            where = f"{self.settings.name}: no question in {self.data.folder}"
            raise ValueError(f"{where} can be asked: {reasons}")

    def leave_out(self, rows: Sequence[Question], reason: str, detail: str = "") -> None:
        """Marks the part of a video that these questions are about as unreadable."""
        text = ", ".join(filter(None, [detail, f"questions: {len(rows)}"]))
        skipped = Skipped(id=rows[0].video, stage="evaluation", reason=reason, detail=text)
        self.unreadable[rows[0].part] = skipped


def find_benchmark(name: str) -> Benchmark:
    """The benchmark with this name; raises ValueError for an unknown one."""
    if name not in (names := get_args(PublicBenchmark)):
        raise ValueError(f"unknown benchmark {name!r}. The benchmarks are {', '.join(names)}")
    return getattr(import_module(f"tempo.evaluation.public.{name}"), name)  # type: ignore[no-any-return]


def load_task(settings: PublicBenchmarkConfig) -> Task:
    """Reads the questions of a benchmark and looks for their videos.

    Raises ValueError if a table or column is missing, or if all videos are missing.
    """
    benchmark, data = find_benchmark(settings.name), Data(Path(settings.data).expanduser())
    questions, bad_rows = benchmark.questions(data)
    task = Task(settings, benchmark, data, questions, bad_rows)
    for rows in task.asked():
        if not data.find(rows[0].video):
            task.leave_out(rows, "video not found")
    task.check()
    return task


def answer_task(
    task: Task,
    model: str,
    lm: Callable[[], VideoLM],
    config: Config,
    *,
    store: RunStore | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Adds the replies of a model to the task, and blind ones if the settings ask for them.

    Frames are sampled as the section [frames] says, except for their number if the benchmark states one. `lm`
    loads the model; it is called only if a reply is missing. With a store, replies are stored and reused.
    `progress` gets the numbers of parts of videos done and in total. Raises ValueError if no question can be
    asked.
    """
    # One file per set of questions and settings.
    name, key = task.settings.name, hash_text(task.settings.model_dump_json() + task.prompts_hash)[:8]
    for source in (name, f"{name}, blind")[: 1 + task.settings.blind]:
        table = f"evaluation/{model}-{source.replace(', ', '-')}-{key}"
        answer = partial(_answer, lm, task, config, source != name)
        replies = answer_parts(task.asked(), answer, Outcome, store=store, table=table, progress=progress)
        task.replies.setdefault(source, {})[model] = replies
    task.check()


def _answer(
    lm: Callable[[], VideoLM], task: Task, config: Config, is_blind: bool, rows: Sequence[Question]
) -> list[Outcome]:
    """The answers to questions about one part of a video; none if it cannot be read."""
    settings, video, seconds = task.settings, dict[str, Any](frames=None), config.videos.timeout_seconds
    name, *part = rows[0].part
    footage = task.data.find(name)
    if footage and not is_blind:
        try:
            video = shown(footage.sample(config.frames, part, task.num_frames, timeout_seconds=seconds))
        except SkipRecord as skip:
            task.leave_out(rows, skip.reason, skip.detail)
            return []
    if settings.scoring != "generate":
        samples, limit = [row.sample(settings.scoring) for row in rows], config.training.max_tokens
        return ask(lm(), samples, **video, scoring=settings.scoring, max_tokens=limit)
    greedy = SamplingConfig(temperature=0, repetition_penalty=1, batch_size=8)
    requests = [Request(row.prompt, 0, **video) for row in rows]
    written = generate(lm(), requests, sampling=greedy, max_new_tokens=settings.max_new_tokens)
    return [row.written(answer.text) for row, answer in zip(rows, written, strict=True)]
