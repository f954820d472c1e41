"""LongVideoBench, validation set (arXiv 2407.15754): long videos, here without their subtitles."""

from tempo.evaluation.public import questions as q


def _read(row: q.Row) -> q.Questions:
    columns = [str(row.get(f"option{number}", "N/A")) for number in range(5)]
    options = row.get("candidates") or [option for option in columns if option != "N/A"]
    units = {f"up to {row['duration_group']} seconds": row.id}
    fields = q.list_options(row["question"], options)
    answer, aspect = int(row["correct_choice"]), row["question_category"]
    yield q.question_of(row, row["video_path"], answer, aspect=aspect, units=units, **fields)


BENCHMARK = q.Benchmark(
    "longvideobench/LongVideoBench", ("lvb_val.json", "validation-*.parquet"), _read, num_frames=64
)
