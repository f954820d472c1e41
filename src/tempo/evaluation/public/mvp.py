"""MVP, minimal video pairs (2025): the same question about two videos with different answers."""

import ast

from tempo.evaluation.public import questions as q


def _read(row: q.Row) -> q.Questions:
    try:
        # A list in Python's notation.
        options = ast.literal_eval(row["candidates"])
    except SyntaxError as error:
        raise ValueError(f"candidates: {error}") from None
    pair = f"{row.name}/{row['video_id'].rpartition('_')[0]}"
    fields = q.list_options(row["question"], options)
    answer = q.index_of(row["answer"], options)
    yield q.question_of(row, row["video_path"], answer, units={"pair accuracy": pair}, **fields)


BENCHMARK = q.Benchmark(
    "facebook/minimal_video_pairs", ("*/mini-*.parquet", "*/full-*.parquet"), _read, num_frames=16
)
