"""Responses: the model describes each video as filmed (chosen) and perturbed (rejected).

Depending on `responses.input_form`, the model fuses the captions of the clips into one paragraph, describes
their key frames, or describes the stored frames of the whole video. T: number of frames.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Clips, Perturbations, Response, Responses, Skipped, Unanswered
from tempo.core.store import RunStore
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.model.answers import Answer, Generate, Request, skip_if_failed
from tempo.model.endpoint import answer_source
from tempo.model.loading import load_without_weights
from tempo.preference.prompts import describe_prompt, fusion
from tempo.video.faults import attempt
from tempo.video.frames import FrameStore

STAGE = "responses"

#: Clips to show in place of others, as in `Perturbation.replaced`.
Replaced: TypeAlias = Sequence[tuple[int, str, int]]

#: Maps an order of clips, replaced clips and a seed to a request; None if the order leaves no frames or
#: changes nothing.
MakeRequest: TypeAlias = Callable[[Sequence[int], Replaced, int], Request | None]


@dataclass(frozen=True)
class Footage:
    """Frames uint8 [T, H, W, 3] in time order, and the clip of each; `fps` and `seconds` as in a Prefix."""

    frames: NDArray[np.uint8]
    clip_T: NDArray[np.int64]
    num_clips: int
    fps: float
    seconds: Sequence[float] = ()


def make_worker(context: Context, generate: Generate | None = None) -> Worker:
    """A worker that maps Perturbations to Responses. `generate` replaces the configured model or server."""
    draw_answers, read_input = generate or answer_source(context), _input_reader(context)
    settings, seed = context.config.responses, context.config.run.seed
    concurrency = context.config.endpoint.concurrency if context.config.endpoint else 1

    def ask(video: Perturbations) -> list[Request | None]:
        make_request = read_input(video.id)
        shown: list[tuple[str, Sequence[int], Replaced]] = [("chosen", range(video.num_clips), ())]
        shown += [(f"{p.kind}-{p.level}", p.order, p.replaced) for p in video.perturbations]
        return [
            make_request(order, replaced, derive_seed(seed, video.id, "response", name))
            for name, order, replaced in shown
        ]

    def respond(videos: Sequence[Perturbations]) -> Iterator[Responses | Skipped]:
        asked = [attempt(STAGE, video, ask) for video in videos]
        requests = [request for row in asked if not isinstance(row, Skipped) for request in row if request]
        drawn = iter(draw_answers(requests, sampling=settings, max_new_tokens=settings.max_new_tokens))
        for video, row in zip(videos, asked, strict=True):
            if isinstance(row, Skipped):
                yield row
            else:
                yield _collect(video, [next(drawn) if request else None for request in row])

    def work(batch: Sequence[Perturbations]) -> Sequence[Responses | Skipped]:
        # The requests of a video hold its frames many times, so only enough videos to keep a server busy.
        most = 1 + max(len(video.perturbations) for video in batch)
        size = len(batch) if settings.input_form == "captions" else math.ceil(concurrency / most)
        return [row for start in range(0, len(batch), size) for row in respond(batch[start : start + size])]

    return work


def _input_reader(context: Context) -> Callable[[str], MakeRequest]:
    """Maps a video id to the function that makes its requests, in the configured input form."""
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    form, prompts = context.config.responses.input_form, context.config.responses.prompts
    if form == "captions":
        texts = store.rows("captions", Captions)
        # A server itself rejects prompts that are too long, and its model need not be on this machine.
        lm, limit = load_without_weights(context.config.model) if not context.config.endpoint else (None, 0)

        def fuse(name: str, order: Sequence[int], replaced: Replaced, seed: int) -> Request:
            prompt = fusion(captions_shown(texts, name, order, replaced))
            if lm:
                text = lm.template.render(prompt, with_video=False)
                if (size := len(lm.template.tokenize(text)["input_ids"])) > limit:
                    tokens = f"{size} tokens, max_position_embeddings is {limit}"
                    raise SkipRecord("prompt too long", f"{tokens}; lower captions.max_new_tokens")
            return Request(prompt, seed)

        return lambda name: functools.partial(fuse, name)
    clips = store.rows("clips", Clips)
    read = key_frames_by_clip if form == "clips" else frames_by_clip
    choose = functools.partial(describe_prompt, prompts=prompts, seed=context.config.run.seed)

    def footage(name: str) -> Footage:
        return read(clips[name], frames)

    return lambda name: frame_requests(footage(name), prompt=choose(name), read_other=footage)


def captions_shown(
    captions: Mapping[str, Captions], name: str, order: Sequence[int], replaced: Replaced
) -> list[str]:
    """The captions of a video's clips in this order, with those of other videos for replaced clips."""
    own = captions[name].captions
    shown = {clip: own[clip] for clip in order}
    shown |= {place: captions[other].captions[clip] for place, other, clip in replaced}
    return [shown[place] for place in (sorted(shown) if replaced else order)]


def frame_requests(
    video: Footage, *, prompt: str, read_other: Callable[[str], Footage] | None = None
) -> MakeRequest:
    """Makes requests that show the frames of the clips in a given order, at the times of the original.

    `read_other` gives the footage of another video, from which clips are replaced. A clip has as many frames
    as the one that it replaces, of the same size.
    """

    def make(order: Sequence[int], replaced: Replaced, seed: int) -> Request | None:
        shown_T = arrange(video.clip_T, order)
        # A clip shorter than 1 / fps seconds may have no frame; dropping or moving it then changes nothing.
        looks_original = np.array_equal(shown_T, np.arange(len(video.clip_T)))
        is_original = list(order) == list(range(video.num_clips))
        if not len(shown_T) or looks_original != is_original:
            return None
        if not replaced or not read_other:
            return Request(prompt, seed, video.frames[shown_T], video.fps, video.seconds)
        frames = video.frames.copy()
        for place, name, clip in replaced:
            places = np.flatnonzero(video.clip_T == place)
            frames[places] = _frames_of_clip(read_other(name), clip, len(places), frames.shape[1:3])
        return Request(prompt, seed, frames, video.fps, video.seconds)

    return make


def _frames_of_clip(video: Footage, clip: int, count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames [count, H, W, 3] of a clip, evenly spaced, in another size; the next frame if it has none."""
    first, end = np.searchsorted(video.clip_T, [clip, clip + 1])
    picked = np.linspace(first, max(first, end - 1), count).round().astype(int)
    shown = video.frames[picked.clip(max=len(video.frames) - 1)]
    scaled = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in shown]
    return np.array(scaled, np.uint8).reshape(count, *size, 3)


def arrange(clip_T: NDArray[np.int64], order: Sequence[int]) -> NDArray[np.int64]:
    """The indices of the frames, with the clips in this order and the frames of a clip in time order."""
    return np.concatenate([np.flatnonzero(clip_T == clip) for clip in order])


def key_frames_by_clip(video: Clips, store: FrameStore) -> Footage:
    """The key frames of a video, two per clip; `fps` is their number divided by the length of its clips."""
    clip_T = np.repeat(np.arange(len(video.clips)), 2)
    seconds = sum(clip.end_seconds - clip.start_seconds for clip in video.clips)
    fps = round(len(clip_T) / seconds, 3)
    return Footage(store.read_key_frames(video.id), clip_T, len(video.clips), fps)


def frames_by_clip(video: Clips, store: FrameStore) -> Footage:
    """The stored frames of a video and the clip of each."""
    stored = store.read(video.id)
    clip_T = clip_of_frames(video, stored.seconds)
    return Footage(stored.images, clip_T, len(video.clips), stored.fps, stored.seconds.tolist())


def clip_of_frames(video: Clips, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The clip of each frame, given their times [T]; a frame between two clips belongs to the earlier one."""
    starts_seconds = [clip.start_seconds for clip in video.clips]
    return np.maximum(np.searchsorted(starts_seconds, seconds, side="right") - 1, 0)


def _collect(video: Perturbations, answers: Sequence[Answer | None]) -> Responses | Skipped:
    if failed := skip_if_failed(answers, stage=STAGE, id=video.id):
        return failed
    (chosen, fault), *others = map(_text_or_fault, answers)
    if fault:
        return Skipped(stage=STAGE, id=video.id, reason="no chosen answer", detail=fault)
    made = list(zip(video.perturbations, others, strict=True))
    rejected = tuple(Response(perturbation=one, text=text) for one, (text, fault) in made if not fault)
    unanswered = tuple(
        Unanswered(kind=one.kind, level=one.level, reason=fault) for one, (_, fault) in made if fault
    )
    if not rejected:
        detail = "; ".join(f"{row.kind}-{row.level:02d} {row.reason}" for row in unanswered)
        return Skipped(stage=STAGE, id=video.id, reason="no rejected answer", detail=detail)
    fields = {"num_clips": video.num_clips, "rejected": rejected, "unanswered": unanswered}
    row = Responses(id=video.id, chosen=chosen, **fields)
    row._num_tokens = sum(len(answer.token_ids) for answer in answers if answer)
    return row


def _text_or_fault(answer: Answer | None) -> tuple[str, str]:
    """The text of an answer, or why it cannot be used."""
    if answer is None:
        return "", "not asked: no frames are left, or they are in the original order"
    if not answer.is_whole:
        return "", "cut off at responses.max_new_tokens"
    return (answer.text, "") if any(c.isalnum() for c in answer.text) else ("", "empty")
