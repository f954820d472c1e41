"""Perturbations to responses: the model tells of a video as filmed (chosen) and as perturbed (rejected)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tempo.core.records import Perturbations, Response, Responses, Skipped, Unanswered
from tempo.core.seeds import derive_seed
from tempo.engine.types import Context, Worker
from tempo.model.answers import Answer, Request, skip_if_failed
from tempo.model.endpoint import answer_source
from tempo.preference.inputs import Ask, input_reader
from tempo.video.faults import attempt

STAGE = "responses"


def make_worker(context: Context) -> Worker:
    """A worker from Perturbations to Responses; it drops a video without a chosen or any rejected answer."""
    generate = answer_source(context)
    settings, seed = context.config.responses, context.config.run.seed
    concurrency = context.config.endpoint.concurrency if context.config.endpoint else 1
    read_input = input_reader(context)

    def ask(video: Perturbations) -> list[Request | None]:
        return requests_of(video, read_input(video.id), seed=seed)

    def respond(videos: Sequence[Perturbations]) -> list[Responses | Skipped]:
        asked = [attempt(STAGE, video, ask) for video in videos]
        requests = [request for row in asked if not isinstance(row, Skipped) for request in row if request]
        drawn = iter(generate(requests, sampling=settings, max_new_tokens=settings.max_new_tokens))
        return [
            row
            if isinstance(row, Skipped)
            else _collect(video, [next(drawn) if request else None for request in row])
            for video, row in zip(videos, asked, strict=True)
        ]

    def work(batch: Sequence[Perturbations]) -> Sequence[Responses | Skipped]:
        size = len(batch) if settings.input_form == "captions" else videos_together(batch, concurrency)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        return [result for part in parts for result in respond(part)]

    return work


def videos_together(batch: Sequence[Perturbations], concurrency: int) -> int:
    """How many videos' frames are in memory at once: no more than keep a server busy, one without a server.

    The requests of a video hold its frames up to nine times.
    """
    return math.ceil(concurrency / (1 + max(len(video.perturbations) for video in batch)))


def requests_of(video: Perturbations, ask: Ask, *, seed: int) -> list[Request | None]:
    """The clean request first, then one per perturbation; None where there is nothing new to ask."""
    clean = ask(range(video.num_clips), derive_seed(seed, video.id, "response", "chosen"))
    assert clean is not None, f"{video.id} as filmed shows nothing"
    names = [f"{p.kind}-{p.level}" for p in video.perturbations]
    seeds = [derive_seed(seed, video.id, "response", name) for name in names]
    return [clean, *(ask(p.order, s) for p, s in zip(video.perturbations, seeds, strict=True))]


def _collect(video: Perturbations, answers: Sequence[Answer | None]) -> Responses | Skipped:
    """The answers of a video, the clean one first, joined to what was asked."""
    if failed := skip_if_failed(answers, stage=STAGE, id=video.id):
        return failed
    texts = [answer.text if answer else "" for answer in answers]
    faults = [_fault(answer) for answer in answers]
    if faults[0]:
        return Skipped(stage=STAGE, id=video.id, reason="no chosen answer", detail=faults[0])
    joined = list(zip(video.perturbations, texts[1:], faults[1:], strict=True))
    unanswered = [Unanswered(kind=p.kind, level=p.level, reason=fault) for p, _, fault in joined if fault]
    if len(unanswered) == len(joined):
        detail = "; ".join(f"{row.kind}-{row.level:02d} {row.reason}" for row in unanswered)
        return Skipped(stage=STAGE, id=video.id, reason="no rejected answer", detail=detail)
    return Responses(
        id=video.id,
        num_clips=video.num_clips,
        chosen=texts[0],
        rejected=tuple(Response(perturbation=p, text=text) for p, text, fault in joined if not fault),
        unanswered=tuple(unanswered),
    )


def _fault(answer: Answer | None) -> str:
    """Why an answer is of no use; empty if it is."""
    if answer is None:
        return "not asked: no frame of the video stands elsewhere"
    if not answer.is_whole:
        return "cut at responses.max_new_tokens"
    return "" if any(c.isalnum() for c in answer.text) else "empty"
