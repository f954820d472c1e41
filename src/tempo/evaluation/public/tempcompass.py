"""TempCompass (arXiv 2403.00476): five temporal aspects, also on reversed and joined videos."""

from collections import defaultdict
from typing import Any

from tempo.evaluation.public import questions as q


def _rows(content: Any) -> Any:
    """The rows of the hub; in the repository they are lists by video and aspect."""
    if isinstance(content, list):
        return content
    parts = [(video, dim, rows) for video, by_dim in content.items() for dim, rows in by_dim.items()]
    return [{"video_id": video, "dim": dim, **row} for video, dim, rows in parts for row in rows]


def _units(questions: list[q.Question]) -> list[q.Question]:
    """Makes a unit of the same question about several videos, if each video has another answer."""
    groups = defaultdict(list)
    for question in questions:
        groups[question.aspect, question.prompt].append(question)
    grouped = []
    for group in groups.values():
        is_unit = len({question.answer for question in group}) == len(group) > 1
        units = {f"{group[0].format}, conflicting videos": group[0].id} if is_unit else {}
        grouped += [question.model_copy(update={"units": units}) for question in group]
    return grouped


@q.benchmark(
    "lmms-lab/TempCompass", "questions/*.json", "*/test-*.parquet", num_frames=None, rows=_rows, group=_units
)
def tempcompass(row: q.Row) -> q.Questions:
    if row.name == "captioning":
        return  # Captions have no options.
    if row.name == "yes_no":
        fields = q.yes_or_no(row["question"], f"{row['question']}\nPlease answer yes or no:")
    else:
        fields = q.options_in(row["question"], "Please directly give the best option:")
    answer = q.index_of(q.without_label(row["answer"]), fields["options"])
    yield q.question_of(row, row["video_id"], answer, aspect=f"{row.name}, {row['dim']}", **fields)
