"""Captions and responses from the scripts of the embedded world, as if the model made no mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tempo.core.files import read_rows
from tempo.core.records import Captions, Clips, Perturbations, Record, Response, Responses, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.pipeline.stages import fingerprints
from tempo.synthetic import language
from tempo.synthetic.world import Story


def write_true_captions(context: Context) -> None:
    """Finishes the captions stage with true captions; skips videos whose clips are not their events."""
    path = context.directory / "synthetic" / "videos" / "scripts.jsonl"
    scripts = {story.id: story for story in read_rows(path, Story, key="scripts")}
    rows: list[Record] = []
    for video in RunStore(context.directory).read("clips", Clips):
        events = scripts[Path(video.path).stem].events
        if len(events) == len(video.clips):
            rows.append(Captions(id=video.id, captions=tuple(map(language.caption, events))))
        else:
            detail = f"{len(video.clips)} clips, {len(events)} events"
            rows.append(Skipped(stage="captions", id=video.id, reason="clips are not events", detail=detail))
    _finish(context, "captions", rows)


def write_true_responses(context: Context) -> None:
    """Finishes the responses stage with the captions fused in the true order and in every perturbed one."""
    store = RunStore(context.directory)
    captions = {row.id: row.captions for row in store.read("captions", Captions)}

    def fuse(row: Perturbations, order: Sequence[int]) -> str:
        return language.fuse([captions[row.id][index] for index in order])

    rows = [
        Responses(
            id=row.id,
            num_clips=row.num_clips,
            chosen=fuse(row, range(row.num_clips)),
            rejected=tuple(Response(perturbation=p, text=fuse(row, p.order)) for p in row.perturbations),
        )
        for row in store.read("perturbations", Perturbations)
    ]
    _finish(context, "responses", rows)


def _finish(context: Context, stage: str, rows: Sequence[Record]) -> None:
    store, fingerprint = RunStore(context.directory), fingerprints(context.config)[stage]
    if store.is_done(stage):
        return
    store.forget(stage)
    store.begin(stage, fingerprint)
    store.append(stage, [row for row in rows if not isinstance(row, Skipped)])
    store.append(SKIPPED, [row for row in rows if isinstance(row, Skipped)])
    store.finish(stage, fingerprint)
