"""AoTBench (ArrowRL): the direction of play, and questions that depend on time; one accuracy per file."""

from tempo.evaluation.public import questions as q


@q.benchmark("sherryxzh/AoTBench", "input/*.json", "data_files/*.json", mean="none")
def aotbench(row: q.Row) -> q.Questions:
    yield q.question_of(row, row["video_name"], q.letter_index(row["ans"]), **q.options_in(row["question"]))
