"""Rows of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tempo.core.records import Outcome, Sample

SAMPLE = {
    "id": "v/0",
    "video": "v.mp4",
    "aspect": "direction",
    "format": "multiple_choice",
    "question": "Where to?",
    "options": ["Left.", "Right."],
    "answer": 1,
}


def samples_of(outcomes: Sequence[Outcome], video: Callable[[str], str] = str) -> list[Sample]:
    """The samples that outcomes belong to; `video` maps a sample's id to its video, by default its own."""
    return [
        Sample(
            id=row.id,
            video=video(row.id),
            aspect=row.aspect,
            format=row.format,
            question="?",
            options=tuple(map(str, range(len(row.log_likelihoods)))),
            answer=row.answer,
            group=row.group,
        )
        for row in outcomes
    ]
