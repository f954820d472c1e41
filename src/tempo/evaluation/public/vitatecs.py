"""VITATECS (arXiv 2311.17404): a caption or its counterfactual, in an order drawn by the row's id."""

from tempo.core.hashing import derive_seed
from tempo.evaluation.public import questions as q


@q.benchmark("lscpku/VITATECS", "data/*.jsonl", "*/test-*.parquet")
def vitatecs(row: q.Row) -> q.Questions:
    captions = [row["caption"], row["counterfactual"]]
    # Without this, the letter A would always be right.
    is_swapped = derive_seed(0, "vitatecs", row.id) % 2
    fields = q.list_options("Which caption describes the video?", captions[::-1] if is_swapped else captions)
    video = f"{row['src_dataset']}/{row['video_name']}"
    yield q.question_of(row, video, is_swapped, aspect=row["aspect"], **fields)
