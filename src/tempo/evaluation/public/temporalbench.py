"""TemporalBench (arXiv 2410.10818): similar captions. MBA counts a video if all its questions are right."""

from tempo.evaluation.public import questions as q

#: The numbers that files have in place of names; others are 7.
CATEGORIES = {
    1: "action order", 2: "action frequency", 3: "action type", 4: "motion magnitude", 5: "motion direction",
    6: "action effector", 7: "others", 8: "event order",
}  # fmt: skip


@q.benchmark("microsoft/TemporalBench", "temporalbench_*_qa.json", num_frames=32)
def temporalbench(row: q.Row) -> q.Questions:
    category, video = row.get("category", ""), row["video_name"]
    name = str(CATEGORIES.get(category, category)).replace("_", " ").lower()
    units, fields = {f"{row.name}, MBA": video}, q.options_in(row["question"])
    yield q.question_of(row, video, q.letter_index(row["GT"]), aspect=name, units=units, **fields)
