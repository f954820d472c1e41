"""Clips to captions, by the model itself and differentially: each clip together with the one before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tempo.core.records import Captions, Clips, Skipped
from tempo.core.seeds import derive_seed
from tempo.engine.types import Context, Worker
from tempo.model.answers import Answer, Request, skip_if_failed
from tempo.model.endpoint import answer_source
from tempo.preference.cleaning import clean_caption
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP
from tempo.video.faults import attempt
from tempo.video.frames import FrameStore

STAGE = "captions"


class Drawn(NamedTuple):
    """The last answer to a request and the caption in it, None if there is none."""

    answer: Answer
    caption: str | None


def make_worker(context: Context) -> Worker:
    """A worker from Clips to Captions; it drops a video of which a clip stays without a caption."""
    generate = answer_source(context)
    store = FrameStore(context.directory / "frames")
    settings = context.config.captions
    num_tries = settings.retries + 1 if settings.temperature else 1

    def draw(requests: Sequence[Request]) -> list[Answer]:
        return generate(requests, sampling=settings, max_new_tokens=settings.max_new_tokens)

    def ask(video: Clips) -> list[Request]:
        return clip_requests(video, store, seed=context.config.run.seed)

    def work(batch: Sequence[Clips]) -> Sequence[Captions | Skipped]:
        asked = [attempt(STAGE, video, ask) for video in batch]
        requests = [request for row in asked if not isinstance(row, Skipped) for request in row]
        drawn = iter(draw_captions(requests, draw, num_tries=num_tries))
        return [
            row if isinstance(row, Skipped) else _collect(video, [next(drawn) for _ in row])
            for video, row in zip(batch, asked, strict=True)
        ]

    return work


def draw_captions(
    requests: Sequence[Request], draw: Callable[[Sequence[Request]], list[Answer]], *, num_tries: int
) -> list[Drawn]:
    """One caption per request; what fails is drawn again, each time with another seed."""
    drawn = [Drawn(Answer("", is_whole=True), None)] * len(requests)
    for number in range(num_tries):
        # What a server failed to answer was asked often enough by then.
        left = [i for i, row in enumerate(drawn) if row.caption is None and not row.answer.failure]
        if not left:
            break
        again = [replace(requests[i], seed=derive_seed(requests[i].seed, number)) for i in left]
        for i, answer in zip(left, draw(again), strict=True):
            caption = clean_caption(
                answer,
                is_differential=requests[i].prompt == DIFFERENCE,
                is_last_try=number + 1 == num_tries,
            )
            drawn[i] = Drawn(answer, caption)
    return drawn


def clip_requests(video: Clips, store: FrameStore, *, seed: int) -> list[Request]:
    """One request per clip: clip 0 alone, every other with the key frames of the clip before it first."""
    frames = store.read_key_frames(video.id)
    requests = []
    start = 0
    for index, clip in enumerate(video.clips):
        end = start + len(clip.key_frames)
        first = start - len(video.clips[index - 1].key_frames) if index else start
        seconds = clip.end_seconds - video.clips[max(0, index - 1)].start_seconds
        requests.append(
            Request(
                prompt=DIFFERENCE if index else FIRST_CLIP,
                seed=derive_seed(seed, video.id, "caption", index),
                frames=frames[first:end],
                # Key frames spread over the clips that they show: the rate that says so to the model.
                fps=round((end - first) / seconds, 3),
            )
        )
        start = end
    return requests


def _collect(video: Clips, drawn: Sequence[Drawn]) -> Captions | Skipped:
    if failed := skip_if_failed([row.answer for row in drawn], stage=STAGE, id=video.id):
        return failed
    captions = [row.caption for row in drawn]
    if None in captions:
        index = captions.index(None)
        fault = "empty" if drawn[index].answer.is_whole else "cut at captions.max_new_tokens"
        detail = f"clip {index} of {len(captions)}: {fault}"
        return Skipped(stage=STAGE, id=video.id, reason="no caption", detail=detail)
    return Captions(id=video.id, captions=tuple(caption for caption in captions if caption))
