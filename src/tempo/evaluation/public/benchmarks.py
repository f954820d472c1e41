"""The public benchmarks: how a row of the tables of each becomes questions.

The names of the functions are those in `PublicBenchmark` (`tempo.config.running`).
"""

import ast
import math
from collections import defaultdict
from typing import Any

from tempo.core.hashing import derive_seed
from tempo.evaluation.public import questions as q


def _tempcompass_rows(content: Any) -> Any:
    """The rows of the hub; in the repository they are lists by video and aspect."""
    if isinstance(content, list):
        return content
    parts = [(video, dim, rows) for video, by_dim in content.items() for dim, rows in by_dim.items()]
    return [{"video_id": video, "dim": dim, **row} for video, dim, rows in parts for row in rows]


def _tempcompass_units(questions: list[q.Question]) -> list[q.Question]:
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
    "lmms-lab/TempCompass",
    "questions/*.json",
    "*/test-*.parquet",
    num_frames=None,
    rows=_tempcompass_rows,
    group=_tempcompass_units,
)
def tempcompass(row: q.Row) -> q.Questions:
    """TempCompass (arXiv 2403.00476): five temporal aspects, also on reversed and joined videos."""
    if row.name == "captioning":
        return  # Captions have no options.
    if row.name == "yes_no":
        fields = q.yes_or_no(row["question"], f"{row['question']}\nPlease answer yes or no:")
    else:
        fields = q.options_in(row["question"], "Please directly give the best option:")
    answer = q.index_of(q.without_label(row["answer"]), fields["options"])
    yield q.question_of(row, row["video_id"], answer, aspect=f"{row.name}, {row['dim']}", **fields)


@q.benchmark("HanSolo9682/Vinoground", "vinoground_*score.json", num_frames=32, mean="none")
def vinoground(row: q.Row) -> q.Questions:
    """Vinoground (arXiv 2410.02763): conflicting videos; for the video score, one file joins both."""
    part, pair = row.name.removeprefix("vinoground_").removesuffix("score"), row["idx"].partition("_")[0]
    units = {f"{part} score": pair, "group score": pair}
    fields = q.options_in(row["question"])
    yield q.question_of(row, row["video_name"], q.letter_index(row["GT"]), units=units, **fields)


#: The style of MVBench and TVBench; their authors begin the answer for the model.
STYLE = {
    "head": "Question: {}\nOptions:",
    "line": "({}) {}",
    "end": "Only give the best option.",
    "reply": "Best option:({}",
}


@q.benchmark("FunAILab/TVBench", "json/*.json")
def tvbench(row: q.Row) -> q.Questions:
    """TVBench (arXiv 2410.07752): ten temporal tasks, two of them about a part of the file."""
    video, answer = f"{row.name}/{row['video']}", q.index_of(row["answer"], row["candidates"])
    bounds = {"start_seconds": row.get("start", 0.0), "end_seconds": row.get("end", math.inf)}
    fields = q.list_options(row["question"], row["candidates"], **STYLE)
    yield q.question_of(row, video, answer, aspect=row.name, **bounds, **fields)


@q.benchmark("yale-nlp/TOMATO", "data/*.json", "data/*.parquet")
def tomato(row: q.Row) -> q.Questions:
    """TOMATO (arXiv 2410.23266): six temporal tasks; the names of rows repeat between them."""
    video = row.get("video_path") or f"{row['demonstration_type']}/{row['key']}.mp4"
    fields = q.list_options(row["question"], row["options"])
    yield q.question_of(row, video, int(row["answer"]), aspect=row.name, **fields)


STAR = ("star/Charades_v1_480", "star/Charades_segment")
CLEVRER, PERCEPTION = ("clevrer/video_validation",), ("perception/videos",)

#: Where names of files repeat: folders of whole videos (branch `main`) and of parts (branch `video`).
MVBENCH_FOLDERS = {
    **dict.fromkeys(("action_sequence", "action_prediction", "object_interaction"), STAR),
    **dict.fromkeys(("object_existence", "moving_direction", "moving_count"), CLEVRER),
    **dict.fromkeys(("moving_attribute", "counterfactual_inference"), CLEVRER),
    **dict.fromkeys(("object_shuffle", "action_count", "state_change", "character_order"), PERCEPTION),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
}


@q.benchmark("OpenGVLab/MVBench", "json/*.json", mean="tasks")
def mvbench(row: q.Row) -> q.Questions:
    """MVBench (arXiv 2311.17005): twenty tasks; on the branch `video`, the parts of five are cut out."""
    names = [f"{folder}/{row['video']}" for folder in MVBENCH_FOLDERS.get(row.name, ())] or [row["video"]]
    video, options = row.data.first(*names), row["candidates"]
    bounds = {f"{name}_seconds": row[name] for name in ("start", "end") if name in row and video == names[0]}
    fields = q.list_options(row["question"], options, **STYLE)
    yield q.question_of(row, video, q.index_of(row["answer"], options), aspect=row.name, **bounds, **fields)


VIDEO_MME_HEAD = """\
Select the best answer to the following multiple-choice question based on the video. \
Respond with only the letter (A, B, C, or D) of the correct option.
{}"""


@q.benchmark("lmms-lab/Video-MME", "test-*.parquet", num_frames=64)
def video_mme(row: q.Row) -> q.Questions:
    """Video-MME (arXiv 2405.21075): short, medium and long videos, without subtitles."""
    options = [q.without_label(option) for option in row["options"]]
    fields = q.list_options(row["question"], options, head=VIDEO_MME_HEAD, end="The best answer is:")
    units, answer = {f"{row['duration']} videos": row.id}, q.letter_index(row["answer"])
    yield q.question_of(row, row["videoID"], answer, aspect=row["task_type"], units=units, **fields)


@q.benchmark("MLVU/MVLU", "json/*.json", "data/*.json", "test*.json", num_frames=64, mean="tasks")
def mlvu(row: q.Row) -> q.Questions:
    """MLVU (arXiv 2406.04264): long videos; without the open tasks, which need a judge."""
    if (task := row["question_type"]) in ("sub_scene", "subPlot", "summary"):
        return
    options, answer = row["candidates"], row["answer"]
    # The answers of the development set are texts, those of the test set letters.
    is_letter = len(answer) == 1 and answer not in options
    video = row.data.first(f"{row.name}/{row['video']}", row["video"])
    place = q.letter_index(answer) if is_letter else q.index_of(answer, options)
    fields = q.list_options(row["question"], options, **STYLE | {"head": "{}", "reply": "Best Option: ({}"})
    yield q.question_of(row, video, place, aspect=task, format="", **fields)


@q.benchmark("lscpku/VITATECS", "data/*.jsonl", "*/test-*.parquet")
def vitatecs(row: q.Row) -> q.Questions:
    """VITATECS (arXiv 2311.17404): a caption or its counterfactual, in an order drawn by the row's id."""
    captions = [row["caption"], row["counterfactual"]]
    # Without this, the letter A would always be right.
    is_swapped = derive_seed(0, "vitatecs", row.id) % 2
    fields = q.list_options("Which caption describes the video?", captions[::-1] if is_swapped else captions)
    video = f"{row['src_dataset']}/{row['video_name']}"
    yield q.question_of(row, video, is_swapped, aspect=row["aspect"], **fields)


#: The numbers that files have in place of names; others are 7.
TEMPORALBENCH_CATEGORIES = {
    1: "action order", 2: "action frequency", 3: "action type", 4: "motion magnitude", 5: "motion direction",
    6: "action effector", 7: "others", 8: "event order",
}  # fmt: skip


@q.benchmark("microsoft/TemporalBench", "temporalbench_*_qa.json", num_frames=32)
def temporalbench(row: q.Row) -> q.Questions:
    """TemporalBench (arXiv 2410.10818): similar captions; MBA counts videos with only right answers."""
    category, video = row.get("category", ""), row["video_name"]
    name = str(TEMPORALBENCH_CATEGORIES.get(category, category)).replace("_", " ").lower()
    units, fields = {f"{row.name}, MBA": video}, q.options_in(row["question"])
    yield q.question_of(row, video, q.letter_index(row["GT"]), aspect=name, units=units, **fields)


@q.benchmark("sherryxzh/AoTBench", "input/*.json", "data_files/*.json", mean="none")
def aotbench(row: q.Row) -> q.Questions:
    """AoTBench (ArrowRL): the direction of play, and questions that depend on time; one accuracy per file."""
    yield q.question_of(row, row["video_name"], q.letter_index(row["ans"]), **q.options_in(row["question"]))


NEXT_QA_GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}


@q.benchmark("lmms-eval/NExTQA", "MC/test-*.parquet", "test.csv", "val.csv")
def next_qa(row: q.Row) -> q.Questions:
    """NExT-QA, multiple choice (CVPR 2021): causal (C), temporal (T) and descriptive (D) questions."""
    name = str(row["video"])
    # VidOR's folders, if the videos come from there.
    video = row.data.first(name, str(row.data.json("map_vid_vidorID.json").get(name, name)))
    units = {NEXT_QA_GROUPS[row["type"][0]]: row.id}
    fields = q.list_options(row["question"], [row[f"a{number}"] for number in range(5)])
    yield q.question_of(row, video, int(row["answer"]), aspect=row["type"], units=units, **fields)


@q.benchmark("BaiqiL/TimeBlind", "data.jsonl", needs_whole_units=True)
def timeblind(row: q.Row) -> q.Questions:
    """TimeBlind (arXiv 2602.00288): two questions about each of two videos that differ only in time."""
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


@q.benchmark("facebook/minimal_video_pairs", "*/mini-*.parquet", "*/full-*.parquet")
def mvp(row: q.Row) -> q.Questions:
    """MVP, minimal video pairs (2025): the same question about two videos with different answers."""
    try:
        options = ast.literal_eval(row["candidates"])  # A list in Python's notation.
    except SyntaxError as error:
        raise ValueError(f"candidates: {error}") from None
    fields, answer = q.list_options(row["question"], options), q.index_of(row["answer"], options)
    pair = f"{row.name}/{row['video_id'].rpartition('_')[0]}"
    yield q.question_of(row, row["video_path"], answer, units={"pair accuracy": pair}, **fields)


@q.benchmark("ColorfulAI/VideoHallucer", "temporal/temporal.json")
def videohallucer(row: q.Row) -> q.Questions:
    """VideoHallucer, the temporal part (arXiv 2406.16338): a true and a false statement about each video."""
    units = {"pair accuracy": row.id}
    for number, part in enumerate(("basic", "hallucination")):
        one = row[part]
        prompt = f"{one['question']} Answer the question using 'yes' or 'no'."
        fields = q.yes_or_no(one["question"], prompt)
        answer = q.index_of(one["answer"].lower(), ("yes", "no"))
        video = f"temporal/videos/{one['video']}"
        yield q.question_of(row, video, answer, number=number, aspect=row["type"], units=units, **fields)
