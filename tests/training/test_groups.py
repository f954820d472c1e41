"""From pairs and instructions to lessons and packed rows."""

import numpy as np
import pytest
import torch

from tempo.model.prefix import Continuation, Group
from tempo.records import Instruction, Pair, Video
from tempo.sections import PhaseConfig
from tempo.training.groups import dpo_lessons, pack_rows, sft_lessons
from tempo.video.frames import FrameStore, encode_jpeg


def pair(video, kind, level):
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=f"{video}.mp4",
        prompt="Describe.",
        chosen=f"all of {video}",
        rejected=f"{kind} {level}",
        kind=kind,
        level=level,
        order=(1, 0),
        num_clips=2,
    )


PAIRS = [pair(v, k, level) for v in ("b", "a") for k in ("drop", "reverse") for level in (4, 2)]


def phase(**changes):
    return PhaseConfig.model_validate({"name": "p", "objective": "dpo", "learning_rate": 1e-3} | changes)


def test_one_lesson_per_video_and_level_with_the_chosen_answer_first():
    lessons = dpo_lessons(PAIRS, phase())
    assert [lesson.id for lesson in lessons] == ["a/2", "a/4", "b/2", "b/4"]
    assert lessons[1].answers == ("all of a", "drop 4", "reverse 4")


def test_the_order_of_the_file_changes_nothing():
    assert dpo_lessons(PAIRS[::-1], phase()) == dpo_lessons(PAIRS, phase())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"levels": [4]}, [("a/4", 2), ("b/4", 2)]),
        ({"kinds": ["drop"]}, [("a/2", 1), ("a/4", 1), ("b/2", 1), ("b/4", 1)]),
        ({"levels": [2], "kinds": ["reverse"]}, [("a/2", 1), ("b/2", 1)]),
        ({"kinds": ["shuffle"]}, []),
    ],
)
def test_a_phase_chooses_levels_and_kinds(changes, expected):
    lessons = dpo_lessons(PAIRS, phase(**changes))
    assert [(lesson.id, len(lesson.answers) - 1) for lesson in lessons] == expected


def group(length):
    return Group({"input_ids": torch.zeros(1, length, dtype=torch.long)}, (Continuation((1,)),))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([4, 4, 4], [2, 1]), ([9, 4, 4], [1, 2]), ([9, 9], [1, 1]), ([2, 2, 2], [3]), ([], [])],
)
def test_rows_are_filled_in_order_and_never_overflow(sizes, expected):
    rows = pack_rows([group(size - 1) for size in sizes], max_tokens=10)
    assert [len(row) for row in rows] == expected
    assert all(sum(sum(g.lengths) for g in row) <= 10 for row in rows)


@pytest.fixture
def stored(tmp_path):
    frames = FrameStore(tmp_path / "frames")
    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
    for video in ("one", "two"):
        frames.write(video, [jpeg], seconds=[0.5], fps=1.0)
    return frames


def videos(tmp_path, *names):
    facts = {"duration_seconds": 1.0, "width": 8, "height": 8, "fps": 1.0, "codec": "h264"}
    return [Video(id=name, path=str(tmp_path / f"{name}.mp4"), **facts) for name in names]


def write_rows(path, *rows):
    path.write_text(
        "".join(Instruction(id=str(i), **row).model_dump_json() + "\n" for i, row in enumerate(rows))
    )


def test_questions_are_joined_to_videos_by_path(tmp_path, stored):
    path = tmp_path / "instructions.jsonl"
    write_rows(
        path,
        {"video": "two.mp4", "question": "q1", "answer": "a1"},
        {"video": "one.mp4", "question": "q2", "answer": "a2"},
        {"video": "two.mp4", "question": "q3", "answer": "a3"},
    )
    lessons = sft_lessons(path, videos(tmp_path, "one", "two"), stored)
    assert [(lesson.video_id, lesson.questions) for lesson in lessons] == [
        ("one", (("q2", "a2"),)),
        ("two", (("q1", "a1"), ("q3", "a3"))),
    ]


def test_a_video_that_the_run_does_not_have_is_named(tmp_path, stored):
    path = tmp_path / "instructions.jsonl"
    write_rows(path, {"video": "three.mp4", "question": "q", "answer": "a"})
    with pytest.raises(ValueError, match=r"three\.mp4.*not among the videos"):
        sft_lessons(path, videos(tmp_path, "one"), stored)


def test_a_bad_line_is_named(tmp_path, stored):
    path = tmp_path / "instructions.jsonl"
    write_rows(path, {"video": "one.mp4", "question": "q", "answer": "a"})
    path.write_text(path.read_text() + '{"video": "v"}\n')
    with pytest.raises(ValueError, match=r"instructions\.jsonl line 2 is no instruction"):
        sft_lessons(path, videos(tmp_path, "one"), stored)


def test_an_absent_file_is_named(tmp_path, stored):
    with pytest.raises(ValueError, match=r"training\.instructions.*nowhere\.jsonl"):
        sft_lessons(tmp_path / "nowhere.jsonl", [], stored)
