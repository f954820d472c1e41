"""Every public benchmark, from files in the authors' shape to the authors' figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from published import CASES
from sample_material import config_of

from tempo.config.running import PublicBenchmarkConfig
from tempo.evaluation.public.questions import Question, yes_or_no
from tempo.evaluation.public.tasks import load_task, task_result

CONFIG = config_of()


def load(case, folder, **settings):
    return load_task(PublicBenchmarkConfig(name=case.name, data=str(case.publish(folder)), **settings))


def figures_of(task, wrong=()):
    """The figures of a model that answers all questions rightly, except for some."""
    rows = [question for part in task.asked() for question in part]
    choices = [q.answer if q.id not in wrong else 1 - min(q.answer, 1) for q in rows]
    written = [q.written(q.replies[choice]) for q, choice in zip(rows, choices, strict=True)]
    task.replies[task.settings.name] = {"m": written}
    result = task_result(task, CONFIG)
    return {figure.name: figure.values["m"].value for figure in result.figures}, result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_made_up_answers_give_the_figures_of_the_authors(case, tmp_path):
    task = load(case, tmp_path)
    assert {*case.wrong} <= {question.id for question in task.questions}
    figures, result = figures_of(task, case.wrong)
    assert figures == pytest.approx(case.figures, abs=1e-4)
    assert {name: result.chance[name] for name in case.chance} == pytest.approx(case.chance, abs=1e-4)
    first = min(task.questions, key=lambda question: question.id)
    assert first.prompt.endswith(case.prompt)
    assert first.replies == case.replies


def find_case(name):
    return next(case for case in CASES if case.name == name)


def parts_of(task):
    """Video and bounds of each question, by id."""
    return {q.id: (q.video, q.start_seconds, q.end_seconds) for q in task.questions}


def test_bounds_hold_for_whole_videos_but_not_for_parts_that_were_cut_out(tmp_path):
    whole = find_case("mvbench")
    assert parts_of(load(whole, tmp_path / "a"))["action_sequence/0"][1:] == (0.2, 0.6)
    videos = [name.replace("Charades_v1_480", "Charades_segment") for name in whole.videos]
    cut = parts_of(load(replace(whole, videos=videos), tmp_path / "b"))
    assert cut["action_sequence/0"] == ("star/Charades_segment/ZS.mp4", 0.0, math.inf)
    tvbench = parts_of(load(find_case("tvbench"), tmp_path / "c"))
    assert tvbench["action_sequence/0"][1:] == (0.25, 0.5)
    assert tvbench["action_count/0"][1:] == (0.0, math.inf)


def test_the_right_caption_of_vitatecs_is_not_always_the_first_one(tmp_path):
    answers = [question.answer for question in load(find_case("vitatecs"), tmp_path).questions]
    assert 10 <= sum(answers) <= 30


def test_a_row_whose_answer_is_no_option_is_left_out_and_named(tmp_path):
    (row,) = load(find_case("mlvu"), tmp_path).bad_rows
    assert (row.id, row.reason) == ("2_needle/1", "bad row")
    assert "'Under' is not among the options" in row.detail


def test_missing_videos_are_counted_and_named(tmp_path):
    case = find_case("timeblind")
    task = load(replace(case, videos=case.videos[:-1]), tmp_path)
    figures, result = figures_of(task)
    assert (result.num_questions, result.num_asked) == (8, 6)
    assert [(row.id, row.detail) for row in result.left_out] == [
        ("TimeBlind/videos/vid_1_1.mp4", "questions: 2")
    ]
    # In TimeBlind an incomplete instance is wrong; elsewhere it does not count.
    assert (figures["I-Acc"], figures["Q-Acc"], figures["accuracy"]) == (1 / 2, 1 / 2, 1)
    case = find_case("vinoground")
    figures, result = figures_of(load(replace(case, videos=case.videos[1:]), tmp_path / "b"), case.wrong)
    assert figures["text score"] == 1
    assert figures["video score"] == 1 / 2


def test_without_any_video_nothing_is_asked(tmp_path):
    case = replace(find_case("tomato"), videos=())
    with pytest.raises(
        ValueError, match=r"tomato: no question in .* can be asked: human/0099-01\.mp4: video not found"
    ):
        load(case, tmp_path)


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        ("video_mme", "videomme/test-00000-of-00001.parquet", "task_type"),
        ("tvbench", "json/action_count.json", "candidates"),
        ("next_qa", "test.csv", "a4"),
    ],
)
def test_a_missing_column_is_named_with_its_file(tmp_path, name, table, column):
    case = find_case(name)
    rows = [{key: value for key, value in row.items() if key != column} for row in case.tables[table]]
    with pytest.raises(ValueError, match=rf"{table} row 0: no column '{column}'\. The columns are "):
        load(replace(case, tables={**case.tables, table: rows}), tmp_path)


def test_a_folder_without_the_tables_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no file questions/\*\.json or \*/test-\*\.parquet"):
        load(replace(find_case("tempcompass"), tables={}), tmp_path)


def test_the_hub_form_of_tempcompass_gives_the_figures_of_the_repository(tmp_path):
    case = find_case("tempcompass")
    tables = {
        f"{name.split('/')[1].removesuffix('.json')}/test-00000-of-00001.parquet": [
            {"video_id": video, "dim": aspect, **row}
            for video, aspects in content.items()
            for aspect, rows in aspects.items()
            for row in rows
        ]
        for name, content in case.tables.items()
    }
    figures, _ = figures_of(load(replace(case, tables=tables), tmp_path), case.wrong)
    assert figures == pytest.approx(case.figures, abs=1e-4)


CHOICE = {"options": ["a dog runs", "a cat runs"], "replies": ["A", "B"], "question": "?", "prompt": "?"}


@pytest.mark.parametrize(
    ("fields", "choice", "texts"),
    [
        (CHOICE, 1, ["B", "b", "(B)", "B. a cat runs", "B) because", "A cat runs.", "The best answer is: B"]),
        (CHOICE, 0, ["Best option:(A) a dog"]),
        # An article is not an option, and neither is a letter inside an answer.
        (CHOICE, None, ["A bird flies.", "a bird flies, so B", "C", ""]),
        (yes_or_no("?", "?"), 0, ["yes", "Yes, he does."]),
        (yes_or_no("?", "?"), 1, ["no", "NO."]),
        (yes_or_no("?", "?"), None, ["Nobody", "He does"]),
    ],
)
def test_a_written_answer_is_read_strictly(fields, choice, texts):
    question = Question(id="q", video="v", format="", answer=0, **fields)
    assert [question.written(text).choice for text in texts] == [choice] * len(texts)
