"""VideoHallucer, the temporal part (arXiv 2406.16338): a true and a false statement about each video."""

from tempo.evaluation.public import questions as q


@q.benchmark("ColorfulAI/VideoHallucer", "temporal/temporal.json")
def videohallucer(row: q.Row) -> q.Questions:
    units = {"pair accuracy": row.id}
    for number, part in enumerate(("basic", "hallucination")):
        one = row[part]
        prompt = f"{one['question']} Answer the question using 'yes' or 'no'."
        fields = q.yes_or_no(one["question"], prompt)
        answer = q.index_of(one["answer"].lower(), ("yes", "no"))
        video = f"temporal/videos/{one['video']}"
        yield q.question_of(row, video, answer, number=number, aspect=row["type"], units=units, **fields)
