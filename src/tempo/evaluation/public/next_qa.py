"""NExT-QA, multiple choice (CVPR 2021): causal (C), temporal (T) and descriptive (D) questions."""

from tempo.evaluation.public import questions as q

GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}


@q.benchmark("lmms-eval/NExTQA", "MC/test-*.parquet", "test.csv", "val.csv")
def next_qa(row: q.Row) -> q.Questions:
    name = str(row["video"])
    # VidOR's folders, if the videos come from there.
    video = row.data.first(name, str(row.data.json("map_vid_vidorID.json").get(name, name)))
    units = {GROUPS[row["type"][0]]: row.id}
    fields = q.list_options(row["question"], [row[f"a{number}"] for number in range(5)])
    yield q.question_of(row, video, int(row["answer"]), aspect=row["type"], units=units, **fields)
