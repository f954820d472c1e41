"""MVP, minimal video pairs (2025): the same question about two videos with different answers."""

import ast

from tempo.evaluation.public import questions as q


@q.benchmark("facebook/minimal_video_pairs", "*/mini-*.parquet", "*/full-*.parquet")
def mvp(row: q.Row) -> q.Questions:
    try:
        options = ast.literal_eval(row["candidates"])  # A list in Python's notation.
    except SyntaxError as error:
        raise ValueError(f"candidates: {error}") from None
    fields, answer = q.list_options(row["question"], options), q.index_of(row["answer"], options)
    pair = f"{row.name}/{row['video_id'].rpartition('_')[0]}"
    yield q.question_of(row, row["video_path"], answer, units={"pair accuracy": pair}, **fields)
