"""Pairs of the world's own scripts: what captions without any mistake would come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tempo.core.records import Captions, Clips, Perturbations, Record, Response, Responses, Skipped
from tempo.core.row_files import read_rows
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.synthetic import language
from tempo.synthetic.world import Story


def tell_captions(context: Context) -> None:
    """Does the captions stage from the scripts; a video whose clips are not its events is set aside."""
    store = RunStore(context.directory)
    path = context.directory / "synthetic" / "videos" / "scripts.jsonl"
    scripts = {story.id: story for story in read_rows(path, Story, key="scripts")}
    rows: list[Record] = []
    for video in store.read("clips", Clips):
        events = scripts[Path(video.path).stem].events
        if len(events) == len(video.clips):
            rows.append(Captions(id=video.id, captions=tuple(map(language.caption, events))))
        else:
            detail = f"{len(video.clips)} clips, {len(events)} events"
            rows.append(
                Skipped(stage="captions", id=video.id, reason="clips are not its events", detail=detail)
            )
    _finish(context, "captions", rows)


def tell_responses(context: Context) -> None:
    """Does the responses stage by telling the captions in every order."""
    store = RunStore(context.directory)
    captions = {row.id: row.captions for row in store.read("captions", Captions)}
    _finish(
        context,
        "responses",
        [
            _responses(row, lambda order, row=row: language.fuse([captions[row.id][i] for i in order]))  # type: ignore[misc]
            for row in store.read("perturbations", Perturbations)
        ],
    )


def _responses(row: Perturbations, tell: Callable[[Sequence[int]], str]) -> Responses:
    rejected = tuple(Response(perturbation=made, text=tell(made.order)) for made in row.perturbations)
    return Responses(id=row.id, num_clips=row.num_clips, chosen=tell(range(row.num_clips)), rejected=rejected)


def _finish(context: Context, stage: str, rows: Sequence[Record]) -> None:
    store = RunStore(context.directory)
    if store.is_done(stage):
        return
    fingerprint = fingerprints(context.config)[stage]
    store.forget(stage)
    store.begin(stage, fingerprint)
    store.append(stage, [row for row in rows if not isinstance(row, Skipped)])
    store.append(SKIPPED, [row for row in rows if isinstance(row, Skipped)])
    store.finish(stage, fingerprint)
