"""AoTBench (ArrowRL): the direction of play, and questions that depend on time; one accuracy per file."""

from tempo.evaluation.public import questions as q


def _read(row: q.Row) -> q.Questions:
    yield q.question_of(row, row["video_name"], q.letter_index(row["ans"]), **q.options_in(row["question"]))


TABLES = ("input/*.json", "data_files/*.json")
BENCHMARK = q.Benchmark("sherryxzh/AoTBench", TABLES, _read, num_frames=16, mean="none")
