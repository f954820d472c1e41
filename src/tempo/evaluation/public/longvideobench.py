"""LongVideoBench, validation set (arXiv 2407.15754): long videos, here without their subtitles."""

from tempo.evaluation.public import questions as q


def _read(row: q.Row) -> q.Questions:
    columns = [row.get(f"option{number}", "N/A") for number in range(5)]
    fields = q.list_options(row["question"], row.get("candidates") or [x for x in columns if x != "N/A"])
    units = {f"up to {row['duration_group']} seconds": row.id}
    answer, aspect = int(row["correct_choice"]), row["question_category"]
    yield q.question_of(row, row["video_path"], answer, aspect=aspect, units=units, **fields)


TABLES = ("lvb_val.json", "validation-*.parquet")
BENCHMARK = q.Benchmark("longvideobench/LongVideoBench", TABLES, _read, num_frames=64)
