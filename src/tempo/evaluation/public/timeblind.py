"""TimeBlind (arXiv 2602.00288): two questions about each of two videos that differ only in time."""

from tempo.evaluation.public import questions as q


@q.benchmark("BaiqiL/TimeBlind", "data.jsonl", needs_whole_units=True)
def timeblind(row: q.Row) -> q.Questions:
    instance, role = divmod(int(row["index"]), 4)
    # Four rows in order: the first question about both videos, then the second one.
    question, video = divmod(role, 2)
    units = {"I-Acc": f"{instance}", "Q-Acc": f"{instance}/{question}", "V-Acc": f"{instance}/{video}"}
    if row["type"] == "yes_no":
        prompt = f"{row['question']} Please output Yes or No."
        fields = q.yes_or_no(row["question"], prompt, ("Yes", "No"))
        answer = q.index_of(row["answer"].title(), ("Yes", "No"))
    else:
        fields = q.options_in(row["question"], "Please output A or B.")
        answer = q.letter_index(row["answer"])
    yield q.question_of(row, row["video_path"], answer, aspect=row["type"], units=units, **fields)
