"""The evaluation on held-out videos: every model sees the same frames, prompts and texts.

1. The probe: how much likelier is the description that the base model gave with the real video than with a
   reversed, shuffled, cut or frozen one?
2. Pairs: is the chosen text likelier than the rejected one?
3. Own words: the base model's descriptions from the captions in the original order, and reversed or shuffled.
   The frames in these orders give two conflicting videos. Is each text likelier with its own video?
4. Descriptions: how well does what a model writes agree with the base model's captions of the clips?
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from tempo.config import SamplingConfig
from tempo.core.records import Captions, Clips, Kind, Outcome, Pair, Record, Sample, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.evaluate import ask, group_items, right_items
from tempo.evaluation.figures import MARGIN, MIN_VIDEOS, Item
from tempo.evaluation.probe import Comparison, compare, comparison_items, segment
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.preference.pairs import HELD_OUT, balance_lengths
from tempo.preference.responses import Footage, arrange, frames_by_clip
from tempo.preference.verify import agreement
from tempo.video.frames import FrameStore

#: The kinds of pairs that have all clips in another order.
REORDERINGS: tuple[Kind, ...] = ("reverse", "shuffle")

#: Lengths of pairs are balanced in steps of this relative size; smaller ones would leave few pairs.
LENGTH_STEP = 0.1

#: Number of videos that every model describes in words.
NUM_DESCRIBED = 16


class HeldOutResult(Record):
    """The results of a model on the held-out video `id`."""

    comparisons: tuple[Comparison, ...]
    outcomes: tuple[Outcome, ...]


class Description(Record):
    """A model's description of a held-out video; `is_whole` is False if the token limit cut it off."""

    model: str
    video_id: str
    text: str
    is_whole: bool


class HeldOutVideo(Record):
    """A held-out video with its clips, which a run with imported pairs does not have.

    `text` is the chosen text of its pairs: the base model's description, unless pairs were imported. Over all
    held-out videos, the chosen text of `pairs` is longer as often as shorter. The `reordered` pairs, at most
    one of each kind, have all clips in another order.
    """

    text: str
    prompt: str
    pairs: tuple[Pair, ...]
    reordered: tuple[Pair, ...]
    clips: Clips | None


def read_held_out(context: Context) -> list[HeldOutVideo]:
    """The held-out videos of a run, at most `evaluation.max_held_out`, sorted by id."""
    store, config = RunStore(context.directory), context.config
    pairs = store.read(HELD_OUT, Pair)
    # The first pair of a video is not a mirrored one, whose text describes the perturbed video.
    first = {pair.video_id: pair for pair in sorted(pairs, key=lambda pair: pair.id, reverse=True)}
    names = sorted(first)[: config.evaluation.max_held_out]
    balanced, _ = balance_lengths(
        [pair for pair in pairs if pair.video_id in names], seed=config.run.seed, step=LENGTH_STEP
    )
    clips = store.rows("clips", Clips)
    # The highest level changes most.
    orders = {
        (p.video_id, p.kind): p for p in sorted(pairs, key=lambda p: p.level) if p.order and not p.frames
    }
    return [
        HeldOutVideo(
            id=name,
            text=first[name].chosen,
            prompt=first[name].prompt,
            pairs=tuple(pair for pair in balanced if pair.video_id == name),
            reordered=tuple(orders[name, kind] for kind in REORDERINGS if (name, kind) in orders),
            clips=clips.get(name),
        )
        for name in names
    ]


def notes(context: Context, videos: Sequence[HeldOutVideo]) -> list[str]:
    """What cannot be measured on the held-out videos, and why."""
    if not context.config.evaluation.held_out_share:
        return ["no held-out videos, because evaluation.held_out_share is 0"]
    if not videos:
        return ["no held-out videos: at least two videos must have pairs before one is held out"]
    found = []
    if (count := len({file_of(video.id) for video in videos})) < MIN_VIDEOS:
        found.append(f"too few held-out videos for intervals: {count}, but {MIN_VIDEOS} are needed")
    if not any(video.clips and video.reordered for video in videos):
        found.append(
            "the rows `own words` are left out, because no held-out pair has all clips in another order"
        )
    if not any(video.pairs for video in videos):
        found.append("the row `pairs` is left out, because no held-out pairs balance each other in length")
    return found


def answer(
    context: Context, load: Callable[[], VideoLM], part: Sequence[HeldOutVideo]
) -> list[HeldOutResult]:
    """A model's results on a held-out video: the probe, and the likelihoods of pairs and of `own words`."""
    (video,), lm, limit = part, load(), context.config.training.max_tokens
    footage, seed = _read_footage(context, video), context.config.run.seed
    times: dict[str, Any] = {"fps": footage.fps, "seconds": footage.seconds}
    comparisons = compare(lm, footage, video.text, video=video.id, prompt=video.prompt, seed=seed)
    asked = sorted(_samples(video, footage), key=lambda row: row[0])
    outcomes: list[Outcome] = []
    for (shown, system), rows in groupby(asked, key=lambda row: row[0]):
        frames = footage.frames[list(shown)] if shown else footage.frames
        samples = [sample for _, sample in rows]
        outcomes += ask(lm, samples, frames, **times, system=system, max_tokens=limit)
    return [HeldOutResult(id=video.id, comparisons=tuple(comparisons), outcomes=tuple(outcomes))]


def _read_footage(context: Context, video: HeldOutVideo) -> Footage:
    """The stored frames in the video's clips, or in segments of equal length for imported pairs."""
    frames = FrameStore(context.directory / "frames")
    return frames_by_clip(video.clips, frames) if video.clips else segment(frames.read(video.id))


def _samples(video: HeldOutVideo, footage: Footage) -> Iterator[tuple[tuple[tuple[int, ...], str], Sample]]:
    """The questions about a video, each with the indices of its frames (empty: all) and its system prompt."""

    def sample(pair: Pair, name: str, aspect: str, **fields: Any) -> Sample:
        about = {"video": file_of(video.id), "aspect": aspect, "format": pair.kind, "question": pair.prompt}
        return Sample(id=name, options=(pair.chosen, pair.rejected), **about, **fields)

    for pair in video.pairs:
        yield (pair.frames, pair.system), sample(pair, pair.id, "pairs", answer=0)
    for pair in video.reordered if video.clips else ():
        shown = tuple(arrange(footage.clip_T, pair.order).tolist())
        # Clips shorter than the time between two frames may have none.
        if shown != tuple(range(len(footage.frames))):
            group = f"{pair.id}/own-words"
            for number, frames in enumerate(((), shown)):
                yield (frames, ""), sample(pair, f"{group}/{number}", "own words", answer=number, group=group)


def result_items(results: Sequence[HeldOutResult]) -> dict[str, list[Item]]:
    """What a model scores on each item of each figure, by the name of the figure."""
    found: dict[str, list[Item]] = {}
    for label, kinds in (("reordered", REORDERINGS), ("cut or frozen", ("drop", "frozen"))):
        rows = [row for result in results for row in result.comparisons if row.kind in kinds]
        found[f"probe, real video likelier than {label}"] = comparison_items(rows, "win")
        found[f"probe, {MARGIN} over {label}"] = comparison_items(rows, "margin")
    outcomes = [outcome for result in results for outcome in result.outcomes]
    found["pairs, chosen text likelier"] = right_items(row for row in outcomes if not row.group)
    scores = group_items([row for row in outcomes if row.group])
    return found | {f"own words, {name} score": items for name, items in scores.items()}


def describe(
    context: Context, load: Callable[[], VideoLM], model: str, videos: Sequence[HeldOutVideo]
) -> list[Description]:
    """A model's descriptions of the first held-out videos; new ones are added to the store."""
    store, table = RunStore(context.directory), "evaluation/descriptions"
    shown = {f"{video.id}/{model}": video for video in videos[:NUM_DESCRIBED]}
    rows = {row.id: row for row in store.read(table, Description) if row.id in shown}
    if not (missing := {name: video for name, video in shown.items() if name not in rows}):
        return [*rows.values()]
    settings, requests = context.config.responses, []
    for video in missing.values():
        footage = _read_footage(context, video)
        requests.append(Request(video.prompt, 0, footage.frames, footage.fps, footage.seconds))
    greedy = SamplingConfig(temperature=0, repetition_penalty=settings.repetition_penalty)
    answers = generate(load(), requests, sampling=greedy, max_new_tokens=settings.max_new_tokens)
    new = [
        Description(id=name, model=model, video_id=video.id, text=answer.text, is_whole=answer.is_whole)
        for (name, video), answer in zip(missing.items(), answers, strict=True)
    ]
    store.append(table, new)
    return [*rows.values(), *new]


def description_items(context: Context, rows: Sequence[Description]) -> dict[str, list[Item]]:
    """How well descriptions agree with the captions of the clips (see `agreement`), if there are captions.

    `order` is 1 minus the Kendall distance, 0.5 for fewer than two matches.
    """
    captions, found = RunStore(context.directory).rows("captions", Captions), dict[str, list[Item]]()
    for row in (row for row in rows if row.video_id in captions):
        recall, precision, distance = agreement(row.text, captions[row.video_id].captions)
        order = 1 - (0.5 if distance is None else distance)
        for name, value in (("recall", recall), ("precision", precision), ("order", order)):
            label = f"descriptions, {name}"
            found.setdefault(label, []).append(Item(row.video_id, file_of(row.video_id), value))
    return found
