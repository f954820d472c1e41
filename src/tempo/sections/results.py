"""What is measured and shown."""

from __future__ import annotations

from pydantic import Field

from tempo.sections.base import Section


class EvaluationConfig(Section):
    """The benchmark: a JSONL file of samples beside its videos; the embedded world brings its own."""

    benchmark: str = ""


class ReportConfig(Section):
    """How much the report shows."""

    num_videos: int = Field(6, ge=0)
    num_pairs: int = Field(6, ge=0)
