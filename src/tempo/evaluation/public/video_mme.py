"""Video-MME (arXiv 2405.21075): short, medium and long videos, without subtitles."""

from tempo.evaluation.public import questions as q

HEAD = """\
Select the best answer to the following multiple-choice question based on the video. \
Respond with only the letter (A, B, C, or D) of the correct option.
{}"""


@q.benchmark("lmms-lab/Video-MME", "test-*.parquet", num_frames=64)
def video_mme(row: q.Row) -> q.Questions:
    options = [q.without_label(option) for option in row["options"]]
    fields = q.list_options(row["question"], options, head=HEAD, end="The best answer is:")
    units, answer = {f"{row['duration']} videos": row.id}, q.letter_index(row["answer"])
    yield q.question_of(row, row["videoID"], answer, aspect=row["task_type"], units=units, **fields)
