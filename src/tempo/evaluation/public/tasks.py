"""Public benchmarks: asking models with the prompts and frames of their authors, and the figures."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from tempo import __version__
from tempo.config import Config, SamplingConfig
from tempo.config.running import PublicBenchmark, PublicBenchmarkConfig
from tempo.core.files import NUM_NAMED
from tempo.core.hashing import hash_text
from tempo.core.records import Frozen, Outcome, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.evaluation.evaluate import answer_parts, ask, link_clusters, shown
from tempo.evaluation.figures import Figure, Item, make_figures, percent
from tempo.evaluation.public import benchmarks
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
    return getattr(benchmarks, name)  # type: ignore[no-any-return]


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

    `lm` loads the model, and is called only if a reply is missing. With a store, replies are stored and
    reused. Raises ValueError if no question can be asked.
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


class PublicResult(Frozen):
    """The figures of models on a public benchmark, and everything that they depend on.

    `chance` has each figure for random answers. `left_out` has the rows without a usable question, and the
    videos that are missing or cannot be read. `num_unclear` counts the answers of each model that name no
    option, or score two options equally; they count as wrong.
    """

    benchmark: str
    protocol: dict[str, Any]
    num_questions: int
    num_asked: int
    left_out: tuple[Skipped, ...]
    num_unclear: dict[str, dict[str, int]]
    chance: dict[str, float]
    figures: tuple[Figure, ...]


def figure_items(task: Task, values: Mapping[str, float]) -> dict[str, list[Item]]:
    """The items of each figure; `values` maps asked questions to 1 or 0 (right or wrong), or to their chance.

    First the mean, then the figures of the authors, then those of each table and aspect.
    """
    units: dict[tuple[int, str], dict[str, list[Question]]] = {}
    for question in task.questions:
        labels = {"accuracy": 0, **dict.fromkeys(question.units, 1), question.format: 2, question.aspect: 2}
        for figure, rank in labels.items():
            unit = question.units.get(figure, question.id)
            units.setdefault((rank, figure), {}).setdefault(unit, []).append(question)
    items, is_asked = dict[str, list[Item]](), any if task.benchmark.needs_whole_units else all
    for (rank, figure), groups in sorted(units.items()):
        kept = {unit: rows for unit, rows in groups.items() if is_asked(row.id in values for row in rows)}
        videos = link_clusters([{row.video for row in rows} for rows in kept.values()])
        rights = [math.prod(values.get(row.id, 0.0) for row in rows) for rows in kept.values()]
        if kept and figure and not (rank == 2 and len(kept) == len(values)):
            items[figure] = [Item(*item) for item in zip(kept, videos, rights, strict=True)]
    rows, mean = items.pop("accuracy"), task.benchmark.mean
    tasks = {question.id: question.aspect for question in task.questions}
    counts = Counter(tasks[row.id] for row in rows)
    # Weights give every task the same sum, and all rows together the sum of their number.
    weights = {name: len(rows) / len(counts) / count for name, count in counts.items()}
    weighted = [row._replace(value=row.value * weights[tasks[row.id]]) for row in rows]
    means = {"questions": {"accuracy": rows}, "tasks": {"mean over tasks": weighted}, "none": {}}
    return means[mean] | items


def task_result(task: Task, config: Config) -> PublicResult:
    """The figures of all models in `task.replies`, on the questions about videos that can be read."""
    asked = {question.id: question for rows in task.asked() for question in rows}
    chance = figure_items(task, {name: 1 / len(question.options) for name, question in asked.items()})
    figures, num_unclear = list[Figure](), dict[str, dict[str, int]]()
    for source, replies in task.replies.items():
        kept = {model: [row for row in rows if row.id in asked] for model, rows in replies.items()}
        num_unclear[source] = {m: sum(row.choice is None for row in rows) for m, rows in kept.items()}
        items = {
            model: figure_items(task, {row.id: float(row.is_right) for row in rows})
            for model, rows in kept.items()
        }
        figures += make_figures(source, items, seed=config.run.seed)
    frames = config.frames
    rate = f"{frames.fps:g} per second, at most {frames.max_frames}"
    protocol = {
        **task.settings.model_dump(mode="json", exclude={"name", "num_frames", "blind"}),
        "revision": task.data.revision,
        "files": task.data.hashes,
        "frames": f"{task.num_frames} evenly spaced" if task.num_frames else rate,
        **frames.model_dump(include={"max_pixels", "max_total_pixels", "jpeg_quality"}),
        "prompts": task.prompts_hash,
        "tempo": __version__,
        **{name: version(name) for name in ("transformers", "torch")},
    }
    return PublicResult(
        benchmark=task.settings.name,
        protocol=protocol,
        num_questions=len(task.questions) + len(task.bad_rows),
        num_asked=len(asked),
        left_out=(*task.bad_rows, *task.unreadable.values()),
        num_unclear=num_unclear,
        chance={key: round(fmean(row.value for row in rows), 4) for key, rows in chance.items()},
        figures=tuple(figures),
    )


def result_notes(result: PublicResult) -> list[str]:
    """The notes below the figures: how many questions were asked, chance, and what was left out."""
    counts = f"{result.num_asked} of {result.num_questions} questions were asked"
    chance = ", ".join(f"{name} {percent(share)}" for name, share in result.chance.items())
    left_out = [f"left out: {row.id}: {row.reason}, {row.detail}" for row in result.left_out[:NUM_NAMED]]
    if (num_others := len(result.left_out) - NUM_NAMED) > 0:
        left_out.append(f"left out: {num_others} more")
    return [f"{result.benchmark}: {note}" for note in (f"{counts}; chance: {chance}", *left_out)]
