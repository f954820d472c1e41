"""The evaluation on held-out videos: every model sees the same frames, prompts and texts.

1. The probe: how much likelier is the description that the base model gave with the real video than with a
   reversed, shuffled, cut or frozen one?
2. Pairs: is the chosen text likelier than the rejected one?
3. Order from own words: the captions of the clips, told in order and in another order, are two texts, and the
   frames in these orders are two conflicting videos. Does each video fit its own text best?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tempo.config import PerturbationsConfig, SamplingConfig
from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Clips, Outcome, Pair, Record, Sample
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.benchmark import group_items, right_items
from tempo.evaluation.evaluate import ask
from tempo.evaluation.figures import Figure, Item, make_figure
from tempo.evaluation.probe import compare, segment
from tempo.evaluation.probe_report import Comparison
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.preference.pairs import HELD_OUT, balance_lengths, file_of
from tempo.preference.perturbations import perturb_all
from tempo.preference.responses import Footage, arrange, frames_by_clip
from tempo.video.frames import FrameStore

SOURCE = "held-out videos"

MARGIN = "probe, margin"

#: Lengths of pairs are balanced in steps of this relative size; smaller ones would leave few pairs.
LENGTH_STEP = 0.1

#: Number of videos that the base model and the result describe in words.
NUM_DESCRIBED = 4


class HeldOutResult(Record):
    """What a model makes of a held-out video, which is its `id`."""

    comparisons: tuple[Comparison, ...]
    outcomes: tuple[Outcome, ...]


class Description(Record):
    """What a model says about a held-out video; not `is_whole` if the limit of tokens cut it off."""

    model: str
    video_id: str
    prompt: str
    text: str
    is_whole: bool


@dataclass(frozen=True)
class HeldOutVideo:
    """A held-out video with its pairs, and the captions of its clips, if the run has captions."""

    id: str
    pairs: tuple[Pair, ...]
    captions: tuple[str, ...]


def read_held_out(context: Context) -> list[HeldOutVideo]:
    """The held-out videos of a run, at most `evaluation.max_held_out`, sorted by id."""
    store, limit = RunStore(context.directory), context.config.evaluation.max_held_out
    captions = {row.id: row.captions for row in store.read("captions", Captions)}
    pairs = sorted(store.read(HELD_OUT, Pair), key=lambda pair: (pair.video_id, pair.id))
    by_video = groupby(pairs, key=lambda pair: pair.video_id)
    return [HeldOutVideo(name, tuple(rows), captions.get(name, ())) for name, rows in by_video][:limit]


def notes(context: Context, videos: Sequence[HeldOutVideo]) -> list[str]:
    """What cannot be measured on the held-out videos, and why."""
    if not context.config.evaluation.held_out_share:
        return ["no held-out videos, because evaluation.held_out_share is 0"]
    if not videos:
        return ["no held-out videos: pairs of two videos or more are needed to set one apart"]
    found = []
    if not any(video.captions for video in videos):
        found.append("order from own words is left out, because this run has no captions")
    if not balanced(videos, seed=context.config.run.seed):
        found.append("held-out pairs are left out, because their lengths give the chosen text away")
    return found


def answer_all(
    context: Context,
    load: Callable[[], VideoLM],
    model: str,
    videos: Sequence[HeldOutVideo],
    progress: Callable[[int, int], None],
) -> list[HeldOutResult]:
    """A model's results on all videos, with those that are in `evaluation/held_out/MODEL.jsonl` already."""
    store, table = RunStore(context.directory), f"evaluation/held_out/{model}"
    known = {row.id for row in store.read(table, HeldOutResult)}
    missing = [video for video in videos if video.id not in known]
    for number, video in enumerate(missing, len(videos) - len(missing) + 1):
        store.append(table, [answer(context, load(), video)])
        progress(number, len(videos))
    wanted = {video.id for video in videos}
    return [row for row in store.read(table, HeldOutResult) if row.id in wanted]


def answer(context: Context, lm: VideoLM, video: HeldOutVideo) -> HeldOutResult:
    """The probe of a model on a held-out video, and its likelihoods of the texts of pairs and of captions."""
    seed, max_tokens = context.config.run.seed, context.config.training.max_tokens
    footage, pair = _read_footage(context, video.id), video.pairs[0]
    comparisons = compare(lm, footage, pair.chosen, video=video.id, prompt=pair.prompt, seed=seed)
    asked = sorted(_samples(video, footage, seed), key=lambda row: row[0])
    outcomes: list[Outcome] = []
    for (shown, system), rows in groupby(asked, key=lambda row: row[0]):
        frames = footage.frames[list(shown)] if shown else footage.frames
        outcomes += ask(
            lm,
            [sample for _, sample in rows],
            frames,
            fps=footage.fps,
            seconds=footage.seconds,
            system=system,
            max_tokens=max_tokens,
        )
    return HeldOutResult(id=video.id, comparisons=tuple(comparisons), outcomes=tuple(outcomes))


def _read_footage(context: Context, video_id: str) -> Footage:
    """The stored frames in the video's clips, or in segments of equal length for imported pairs."""
    clips = {row.id: row for row in RunStore(context.directory).read("clips", Clips)}
    frames = FrameStore(context.directory / "frames")
    return frames_by_clip(clips[video_id], frames) if video_id in clips else segment(frames.read(video_id))


def _samples(
    video: HeldOutVideo, footage: Footage, seed: int
) -> Iterator[tuple[tuple[tuple[int, ...], str], Sample]]:
    """The questions about a video, each with the indices of its frames (empty: all) and its system prompt."""
    for pair in video.pairs:
        about = {"id": pair.id, "aspect": "pairs", "format": pair.kind, "question": pair.prompt}
        options = (pair.chosen, pair.rejected)
        yield (pair.frames, pair.system), Sample(video=video.id, options=options, answer=0, **about)
    kinds = PerturbationsConfig(kinds=("reverse", "shuffle"))
    for made in perturb_all(len(video.captions), kinds, seed=derive_seed(seed, video.id, "own words")):
        shown = tuple(arrange(footage.clip_T, made.order).tolist())
        texts = tuple(
            " ".join(video.captions[i] for i in order) for order in (sorted(made.order), made.order)
        )
        if shown == tuple(range(len(footage.frames))) or texts[0] == texts[1]:
            continue
        group = f"{video.id}/own-words-{made.kind}-{made.level:02d}"
        about = {"aspect": "own words", "format": made.kind, "question": video.pairs[0].prompt}
        for number, frames in enumerate(((), shown)):
            sample = Sample(
                id=f"{group}/{number}", video=video.id, options=texts, answer=number, group=group, **about
            )
            yield (frames, ""), sample


def balanced(videos: Sequence[HeldOutVideo], *, seed: int) -> set[str]:
    """The ids of pairs among which the chosen text is longer as often as shorter."""
    pairs = [pair for video in videos for pair in video.pairs]
    return {pair.id for pair in balance_lengths(pairs, lambda pair: "", seed=seed, step=LENGTH_STEP)[0]}


def held_out_figures(
    results: Mapping[str, Sequence[HeldOutResult]], videos: Sequence[HeldOutVideo], *, seed: int
) -> list[Figure]:
    """The figures of the models by name, without those that have no items."""
    fair = balanced(videos, seed=seed)
    found = {model: _items(rows, fair) for model, rows in results.items()}
    return [
        make_figure(
            SOURCE,
            name,
            {model: items[name] for model, items in found.items()},
            seed=seed,
            unit="nats per token" if name == MARGIN else "percent",
        )
        for name, items in next(iter(found.values())).items()
        if items
    ]


def _items(results: Sequence[HeldOutResult], fair: set[str]) -> dict[str, list[Item]]:
    """What a model scores on each item of each figure."""
    rows = [(f"{c.video}/{c.kind}-{c.level:02d}", c) for result in results for c in result.comparisons]
    outcomes = [outcome for result in results for outcome in result.outcomes]
    files = {row.id: file_of(result.id) for result in results for row in result.outcomes}
    pairs = [outcome for outcome in outcomes if outcome.id in fair]
    own_words = group_items([outcome for outcome in outcomes if outcome.group], files)
    return {
        "probe, real video likelier": [Item(name, file_of(c.video), c.win) for name, c in rows],
        MARGIN: [Item(name, file_of(c.video), c.margin / c.num_tokens) for name, c in rows],
        "pairs, chosen text likelier": right_items(pairs, files),
        **{f"own words, {name} score": items for name, items in own_words.items()},
    }


def describe(
    context: Context, load: Callable[[], VideoLM], model: str, videos: Sequence[HeldOutVideo]
) -> None:
    """Adds what a model says about the first held-out videos to `evaluation/descriptions.jsonl`."""
    store, table = RunStore(context.directory), "evaluation/descriptions"
    known = {row.id for row in store.read(table, Description)}
    shown = {f"{video.id}/{model}": video for video in videos[:NUM_DESCRIBED]}
    if {*shown} <= known:
        return
    settings, requests = context.config.responses, []
    for video in shown.values():
        footage = _read_footage(context, video.id)
        prompt = video.pairs[0].prompt
        requests.append(Request(prompt, 0, footage.frames, footage.fps, footage.seconds))
    greedy = SamplingConfig(temperature=0, repetition_penalty=settings.repetition_penalty)
    answers = generate(load(), requests, sampling=greedy, max_new_tokens=settings.max_new_tokens)
    rows = [
        Description(
            id=name,
            model=model,
            video_id=video.id,
            prompt=video.pairs[0].prompt,
            text=answer.text,
            is_whole=answer.is_whole,
        )
        for (name, video), answer in zip(shown.items(), answers, strict=True)
    ]
    store.append(table, [row for row in rows if row.id not in known])
