"""Captions to responses: the model fuses the captions as filmed (chosen) and as perturbed (rejected)."""

from __future__ import annotations

from collections.abc import Sequence

from tempo.model.generation import Answer, Request, generate
from tempo.model.loading import load_video_lm
from tempo.preference.prompts import fusion
from tempo.records import Captions, Drop, Perturbations, Response, Responses
from tempo.seeds import derive_seed
from tempo.stage import Context, Worker
from tempo.store import RunStore

STAGE = "responses"


def make_worker(context: Context) -> Worker:
    """A worker from Perturbations to Responses; it drops a video without a whole chosen answer."""
    lm = load_video_lm(context.config.model)
    captions = {row.id: row for row in RunStore(context.directory).read("captions", Captions)}
    settings, seed = context.config.responses, context.config.run.seed

    def work(batch: Sequence[Perturbations]) -> Sequence[Responses | Drop]:
        requests = [r for video in batch for r in fusion_requests(video, captions[video.id], seed=seed)]
        drawn = iter(generate(lm, requests, sampling=settings, max_new_tokens=settings.max_new_tokens))
        return [_collect(v, next(drawn), [next(drawn) for _ in v.perturbations]) for v in batch]

    return work


def fusion_requests(video: Perturbations, captions: Captions, *, seed: int) -> list[Request]:
    """The clean request first, then one per perturbation."""
    orders = [tuple(range(video.num_clips)), *(p.order for p in video.perturbations)]
    names = ["chosen", *(f"{p.kind}-{p.level}" for p in video.perturbations)]
    return [
        Request(fusion([captions.captions[i] for i in order]), derive_seed(seed, video.id, "response", name))
        for order, name in zip(orders, names, strict=True)
    ]


def _collect(video: Perturbations, chosen: Answer, answers: Sequence[Answer]) -> Responses | Drop:
    if not (chosen.text and chosen.is_whole):
        detail = "empty" if not chosen.text else "cut at responses.max_new_tokens"
        return Drop(stage=STAGE, id=video.id, reason="no chosen answer", detail=detail)
    rejected = tuple(
        Response(perturbation=perturbation, text=answer.text)
        for perturbation, answer in zip(video.perturbations, answers, strict=True)
        if answer.text and answer.is_whole
    )
    return Responses(id=video.id, num_clips=video.num_clips, chosen=chosen.text, rejected=rejected)
