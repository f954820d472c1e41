"""Perception Test, multiple choice, validation set (arXiv 2305.13786)."""

from typing import Any

from tempo.evaluation.public import questions as q


def _rows(content: Any) -> Any:
    """The rows of the mirror; in the authors' file they are lists by video."""
    if isinstance(content, list):
        return content
    return [{"video_name": name, **row} for name, video in content.items() for row in video["mc_question"]]


def _read(row: q.Row) -> q.Questions:
    # The end of some videos shows the answer.
    end = row.data.json("cut_frame_mapping_valid.json").get(row["video_name"])
    fields = q.list_options(row["question"], row["options"])
    yield q.question_of(
        row, row["video_name"], int(row["answer_id"]), aspect=row["area"], end_frame=end, **fields
    )


TABLES = ("mc_question_val/*.parquet", "mc_question_valid.json")
BENCHMARK = q.Benchmark("lmms-eval/PerceptionTest_Val", TABLES, _read, num_frames=16, rows=_rows)
