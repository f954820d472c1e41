"""Perception Test, multiple choice, validation set (arXiv 2305.13786)."""

from typing import Any

from tempo.evaluation.public import questions as q

CUTS = "cut_frame_mapping_valid.json"


def _rows(content: Any) -> Any:
    """The rows of the mirror; the authors' file has a list per video."""
    if isinstance(content, list):
        return content
    return [{"video_name": name, **row} for name, video in content.items() for row in video["mc_question"]]


def _read(row: q.Row) -> q.Questions:
    video = row["video_name"]
    answer = int(row["answer_id"] if row.get("answer_id") is not None else row["answer"])
    # The end of some videos shows the answer.
    end = row.data.json(CUTS).get(video)
    fields = q.list_options(row["question"], row["options"])
    yield q.question_of(row, video, answer, aspect=row["area"], end_frame=end, **fields)


BENCHMARK = q.Benchmark(
    "lmms-lab/PerceptionTest_Val",
    ("mc_question_val/*.parquet", "mc_question_valid.json"),
    _read,
    num_frames=16,
    rows=_rows,
)
