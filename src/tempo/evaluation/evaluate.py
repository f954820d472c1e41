"""Evaluates a model on a benchmark: the likeliest option is its answer. Each video is encoded once.

Samples are read here, and the outcomes become the items of figures.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, permutations
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from tempo.config import FramesConfig, VideosConfig
from tempo.config.running import Scoring
from tempo.core.files import MAX_BAD_SHARE, UserFile, read_user_file, validate_row
from tempo.core.records import Outcome, Record, Sample
from tempo.core.store import RunStore
from tempo.engine.types import SkipRecord
from tempo.evaluation.figures import Figure, Item, make_figures
from tempo.model.chat import Continuation, Prefix, VideoLM, log_probs
from tempo.model.prefix import MAX_TOKENS
from tempo.video.find import find_on_disk
from tempo.video.frames import Frames, sample_video

#: The instruction after a question that lists its options under letters.
ANSWER_WITH_LETTER = "Answer with the letter of the right option."

#: Aspects that can be answered from a single frame.
STATIC_ASPECTS = ("static",)
#: Aspects that are no part of temporal accuracy: static ones, and two kinds of questions about order in the
#: embedded world that its small models have not learned (docs/log.md).
SEPARATE_ASPECTS = (*STATIC_ASPECTS, "first_of_two", "before_after")

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


def read_samples(path: Path, *, max_bad_share: float = MAX_BAD_SHARE) -> UserFile[Sample]:
    """The samples of a benchmark file, in order.

    A row is bad if it is not a valid sample, its id occurred before, its video does not exist, or the samples
    of its group are inconsistent. A warning names the bad rows; raises ValueError if they are more than
    `max_bad_share`.
    """
    ids = set[str]()

    def parse(row: dict[str, Any]) -> Sample:
        sample = validate_row(Sample, row)
        video = find_on_disk(path.parent, sample.video)
        if sample.id in ids:
            raise ValueError(f"an earlier row has the id {sample.id!r}")
        # Path.is_file raises an error for a file in a folder without permission.
        if not os.path.isfile(video):
            raise ValueError(f"{video} is not a file")
        ids.add(sample.id)
        return sample.model_copy(update={"video": video.removeprefix(f"{path.parent}/")})

    file = read_user_file(path, "evaluation.benchmark", parse)
    for name in {sample.group for sample in file.rows.values()} - {""}:
        rows = {place: sample for place, sample in file.rows.items() if sample.group == name}
        answers = {sample.answer for sample in rows.values()}
        if len(answers) < max(2, len(rows)) or len({sample.options for sample in rows.values()}) > 1:
            needs = "needs two samples or more, with the same options and different answers"
            for place in rows:
                file.faults[place] = f"group {name!r} ({', '.join(rows)}) {needs}"
                del file.rows[place]
    return file.check(max_bad_share)


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


def benchmark_items(outcomes: Sequence[Outcome]) -> dict[str, list[Item]]:
    """What a model scores on each item of each figure of a benchmark, by the name of the figure.

    Groups of conflicting videos have three figures: see `group_items`.
    """
    found = {"temporal questions": right_items(row for row in outcomes if row.aspect not in SEPARATE_ASPECTS)}
    # Conflicting videos next to the scores of their groups, static questions last.
    aspects = sorted({row.aspect for row in outcomes} - {"conflicting", *STATIC_ASPECTS})
    for aspect in (*aspects, "conflicting"):
        label = "conflicting, one by one" if aspect == "conflicting" else aspect.replace("_", " ")
        found[label] = right_items(row for row in outcomes if row.aspect == aspect)
    found |= {f"conflicting, {name} score": items for name, items in group_items(outcomes).items()}
    found["static"] = right_items(row for row in outcomes if row.aspect in STATIC_ASPECTS)
    return found


def right_items(outcomes: Iterable[Outcome]) -> list[Item]:
    """Whether each answer is right."""
    return [Item(row.id, row.video, float(row.is_right)) for row in outcomes]


def group_items(outcomes: Sequence[Outcome]) -> dict[str, list[Item]]:
    """Whether each group of conflicting videos is right, as in Vinoground (arXiv 2410.02763).

    `text`: every video gives its own caption the highest likelihood. `video`: every caption has the highest
    likelihood with its own video. `group`: both. The `video` of an item is a cluster: see `link_clusters`.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group, []).append(outcome)
    groups.pop("", None)
    clusters = link_clusters([{row.video for row in rows} for rows in groups.values()])
    found: dict[str, list[Item]] = {"text": [], "video": [], "group": []}
    for (name, rows), video in zip(groups.items(), clusters, strict=True):
        is_text = all(row.is_right for row in rows)
        # Whether each caption is more likely with its own video than with any other video of the group.
        is_video = all(
            a.log_likelihoods[a.answer] > b.log_likelihoods[a.answer] for a, b in permutations(rows, 2)
        )
        for key, is_right in (("text", is_text), ("video", is_video), ("group", is_text and is_video)):
            found[key].append(Item(name, video, float(is_right)))
    return found


def link_clusters(groups: Sequence[set[str]]) -> list[str]:
    """A name for each group of videos; groups that are linked by common videos share a name."""
    from scipy.cluster.hierarchy import DisjointSet

    linked = DisjointSet(set().union(*groups))
    for first, *others in groups:
        for other in others:
            linked.merge(first, other)
    names = {video: min(subset) for subset in linked.subsets() for video in subset}
    return [names[min(group)] for group in groups]
