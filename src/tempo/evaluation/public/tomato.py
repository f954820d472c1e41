"""TOMATO (arXiv 2410.23266): six temporal tasks; the names of rows repeat between them."""

from tempo.evaluation.public import questions as q


@q.benchmark("yale-nlp/TOMATO", "data/*.json", "data/*.parquet")
def tomato(row: q.Row) -> q.Questions:
    video = row.get("video_path") or f"{row['demonstration_type']}/{row['key']}.mp4"
    fields = q.list_options(row["question"], row["options"])
    yield q.question_of(row, video, int(row["answer"]), aspect=row.name, **fields)
