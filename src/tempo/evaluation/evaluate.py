"""Evaluates a model on a benchmark: the likeliest option is its answer. Each video is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from tempo.config import FramesConfig, VideosConfig
from tempo.config.running import Scoring
from tempo.core.records import Outcome, Record, Sample
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.evaluation.benchmark import benchmark_items, read_samples
from tempo.evaluation.figures import Figure, make_figures
from tempo.model.chat import Continuation, Prefix, VideoLM, log_probs
from tempo.model.prefix import MAX_TOKENS
from tempo.video.frames import Frames, sample_video

#: The instruction after a question that lists its options under letters.
ANSWER_WITH_LETTER = "Answer with the letter of the right option."

T = TypeVar("T", bound=Record)
R = TypeVar("R", bound=Record)


def evaluate(
    model: VideoLM,
    benchmark: str | Path,
    *,
    frames: FramesConfig | None = None,
    scoring: Scoring = "sum",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Figure]:
    """The figures of a model (called `model`) on a benchmark, a JSONL file of samples next to its videos.

    Frames are sampled with `frames`, by default with the defaults of the section [frames]. `scoring` is as in
    the section [evaluation], `seed` for the intervals; `progress` gets the numbers of videos done and in
    total. A warning names bad samples. Raises ValueError before any work if more than 5 % are bad, and later
    for a video that cannot be read.
    """
    path = Path(benchmark)
    samples = [*read_samples(path).rows.values()]

    def answer(rows: Sequence[Sample]) -> list[Outcome]:
        video = path.parent / rows[0].video
        sampled = read_video(video, frames or FramesConfig(), VideosConfig().timeout_seconds)
        return ask(model, rows, **shown(sampled), scoring=scoring)

    outcomes = answer_parts(by_video(samples), answer, Outcome, progress=progress)
    return make_figures("benchmark", {"model": benchmark_items(outcomes)}, seed=seed)


def answer_parts(
    parts: Sequence[Sequence[T]],
    answer: Callable[[Sequence[T]], Sequence[R]],
    record: type[R],
    *,
    store: RunStore | None = None,
    table: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[R]:
    """The rows about everything in `parts`, whose elements have the ids of their rows.

    `answer` makes the rows of one part, such as the questions about a video. With a store, rows of `table`
    are reused, and new ones added. `progress` gets the numbers of parts done and in total after each new one.
    """
    rows = store.read(table, record) if store else []
    known = {row.id for row in rows}
    for done, part in enumerate(parts, 1):
        if missing := [one for one in part if one.id not in known]:
            rows += (found := answer(missing))
            if store:
                store.append(table, found)
            progress(done, len(parts))
    wanted = {one.id for part in parts for one in part}
    return [row for row in rows if row.id in wanted]


@torch.no_grad()
def ask(
    model: VideoLM,
    samples: Sequence[Sample],
    frames: np.ndarray | None,
    *,
    fps: float = 1.0,
    seconds: Sequence[float] = (),
    system: str = "",
    scoring: Scoring = "sum",
    max_tokens: int = MAX_TOKENS,
) -> list[Outcome]:
    """One outcome per sample, in order; all samples are about one video and share one vision pass.

    `frames`, `fps`, `seconds` and `system` are those of a Prefix; `max_tokens` is as in `log_probs`.
    Log-likelihoods are in nats, rounded to four decimals: sums or means over all tokens of an
    option and its end of turn, or sums over those of its letter.
    """
    # Samples may share options, such as the chosen text of several pairs.
    rows = list(dict.fromkeys(row for sample in samples for row in options_of(sample, scoring)))
    prefix = Prefix(frames, "", fps=fps, seconds=seconds, system=system)
    reduction: Literal["mean", "sum", "none"] = "none" if scoring == "letter" else scoring
    found = dict(
        zip(rows, log_probs(model, prefix, rows, reduction=reduction, max_tokens=max_tokens), strict=True)
    )
    outcomes = []
    for sample in samples:
        logps = [found[row] for row in options_of(sample, scoring)]
        if scoring == "letter":
            count = _letter_length(model, options_of(sample, scoring))
            logps = [logp[:count].sum() for logp in logps]
        shared = sample.model_dump(include={*Outcome.model_fields})
        scores = tuple(round(float(logp), 4) for logp in logps)
        outcomes.append(Outcome(**shared, log_likelihoods=scores))
    return outcomes


def options_of(sample: Sample, scoring: Scoring) -> list[Continuation]:
    """The options of a sample as answers: their texts, or letters under which the question lists them."""
    if scoring != "letter" or sample.lists_options:
        return [Continuation(option, sample.question) for option in sample.options]
    if len(sample.options) > len(LETTERS):
        found = f"{len(sample.options)} options; scoring 'letter' supports at most {len(LETTERS)}"
        raise ValueError(f"{sample.id} has {found}. Set evaluation.scoring = 'mean'")
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, sample.options, strict=False))
    question = "\n".join([sample.question, *lines, ANSWER_WITH_LETTER])
    return [Continuation(letter, question) for letter in LETTERS[: len(sample.options)]]


def _letter_length(model: VideoLM, rows: Sequence[Continuation]) -> int:
    """The number of tokens up to the one in which letters differ; the end of turn is not scored."""
    answers = model.group(Prefix(None, ""), rows).continuations
    columns = zip(*(answer.token_ids[answer.num_context :] for answer in answers), strict=False)
    return next(number for number, column in enumerate(columns, 1) if len({*column}) > 1)


def by_video(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each video, sorted by video."""
    ordered = sorted(samples, key=lambda sample: sample.video)
    return [list(rows) for _, rows in groupby(ordered, key=lambda sample: sample.video)]


def shown(frames: Frames) -> dict[str, Any]:
    """The arguments of `ask`, a Prefix or a Request that show these frames."""
    return {"frames": frames.images, "fps": frames.fps, "seconds": frames.seconds.tolist()}


def read_video(video: Path, frames: FramesConfig, timeout_seconds: float) -> Frames:
    """The frames of a benchmark's video; raises ValueError that names a video which cannot be read."""
    try:
        return sample_video(video, frames, timeout_seconds)
    except SkipRecord as skip:
        raise ValueError(f"evaluation.benchmark names {video}, which cannot be read: {skip}") from None
