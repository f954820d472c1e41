"""From videos to the report: the table of stages (`stages.py`) and the code that runs them (`runner.py`)."""

from tempo.pipeline.runner import RunResult, run

__all__ = ["RunResult", "run"]
