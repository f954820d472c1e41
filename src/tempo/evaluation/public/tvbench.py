"""TVBench (arXiv 2410.07752): ten temporal tasks, two of them about a part of the file."""

import math

from tempo.evaluation.public import questions as q

#: The style of MVBench; its authors begin the answer for the model.
STYLE = {
    "head": "Question: {}\nOptions:",
    "line": "({}) {}",
    "end": "Only give the best option.",
    "reply": "Best option:({}",
}


@q.benchmark("FunAILab/TVBench", "json/*.json")
def tvbench(row: q.Row) -> q.Questions:
    video, answer = f"{row.name}/{row['video']}", q.index_of(row["answer"], row["candidates"])
    bounds = {"start_seconds": row.get("start", 0.0), "end_seconds": row.get("end", math.inf)}
    fields = q.list_options(row["question"], row["candidates"], **STYLE)
    yield q.question_of(row, video, answer, aspect=row.name, **bounds, **fields)
