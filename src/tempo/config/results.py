"""What is measured and shown."""

from __future__ import annotations

from pydantic import Field

from tempo.config.base import Section


class EvaluationConfig(Section):
    """The benchmark that every model of the run is asked; the embedded world brings its own."""

    benchmark: str = Field("", description="JSONL file of samples; README.md says what a row is")


class ReportConfig(Section):
    """How much the report shows."""

    num_videos: int = Field(6, ge=0, description="videos with their clips, at most")
    num_pairs: int = Field(6, ge=0, description="pairs with both texts, at most")
