"""MLVU (arXiv 2406.04264): long videos; multiple choice only. The mean is over tasks."""

from tempo.evaluation.public import questions as q

#: Open tasks, which need a judge.
OPEN = ("sub_scene", "subPlot", "summary")


def _read(row: q.Row) -> q.Questions:
    if row["question_type"] in OPEN:
        return
    options, answer = row["candidates"], row["answer"]
    # The answers of the development set are texts, those of the test set letters.
    is_letter = len(str(answer)) == 1 and answer not in options
    style = {"line": "({}) {}", "end": "Only give the best option.", "reply": "Best Option: ({}"}
    yield q.question_of(
        row,
        row.data.first(f"{row.name}/{row['video']}", row["video"]),
        q.letter_index(answer) if is_letter else q.index_of(answer, options),
        aspect=row["question_type"],
        format="",
        **q.list_options(row["question"], options, **style),
    )


BENCHMARK = q.Benchmark(
    "MLVU/MVLU", ("json/*.json", "data/*.json", "test*.json"), _read, num_frames=64, mean="tasks"
)
