"""MLVU (arXiv 2406.04264): long videos; without the open tasks, which need a judge."""

from tempo.evaluation.public import questions as q
from tempo.evaluation.public.tvbench import STYLE


@q.benchmark("MLVU/MVLU", "json/*.json", "data/*.json", "test*.json", num_frames=64, mean="tasks")
def mlvu(row: q.Row) -> q.Questions:
    if (task := row["question_type"]) in ("sub_scene", "subPlot", "summary"):
        return
    options, answer = row["candidates"], row["answer"]
    # The answers of the development set are texts, those of the test set letters.
    is_letter = len(answer) == 1 and answer not in options
    video = row.data.first(f"{row.name}/{row['video']}", row["video"])
    place = q.letter_index(answer) if is_letter else q.index_of(answer, options)
    fields = q.list_options(row["question"], options, **STYLE | {"head": "{}", "reply": "Best Option: ({}"})
    yield q.question_of(row, video, place, aspect=task, format="", **fields)
