"""Vinoground (arXiv 2410.02763): conflicting videos; the video score asks about a file that joins both."""

from tempo.evaluation.public import questions as q


@q.benchmark("HanSolo9682/Vinoground", "vinoground_*score.json", num_frames=32, mean="none")
def vinoground(row: q.Row) -> q.Questions:
    part, pair = row.name.removeprefix("vinoground_").removesuffix("score"), row["idx"].partition("_")[0]
    units = {f"{part} score": pair, "group score": pair}
    fields = q.options_in(row["question"])
    yield q.question_of(row, row["video_name"], q.letter_index(row["GT"]), units=units, **fields)
