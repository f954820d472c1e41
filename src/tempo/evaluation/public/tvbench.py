"""TVBench (arXiv 2410.07752): ten temporal tasks, two of them about a part of the file."""

from tempo.evaluation.public import questions as q

#: The instruction of MVBench; the authors begin the answer for the model.
STYLE = {
    "head": "Question: {}\nOptions:",
    "line": "({}) {}",
    "end": "Only give the best option.",
    "reply": "Best option:({}",
}


def _read(row: q.Row) -> q.Questions:
    options = row["candidates"]
    yield q.question_of(
        row,
        f"{row.name}/{row['video']}",
        q.index_of(row["answer"], options),
        aspect=row.name,
        start_seconds=row.get("start", 0.0),
        end_seconds=row.get("end", float("inf")),
        **q.list_options(row["question"], options, **STYLE),
    )


BENCHMARK = q.Benchmark("FunAILab/TVBench", ("json/*.json",), _read, num_frames=16)
