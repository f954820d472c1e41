"""Made-up rows of every public benchmark, in the shape in which its authors publish them, and tiny videos."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
from tiny_film import film

TWO = "A. to the left\nB. to the right"
THREE = f"{TWO}\nC. upwards"


@dataclass(frozen=True)
class Case:
    """A published benchmark, the questions that are answered wrongly, and the figures that follow."""

    name: str
    tables: dict[str, Any]
    videos: tuple[str, ...]
    figures: dict[str, float]
    wrong: tuple[str, ...] = ()
    chance: dict[str, float] = field(default_factory=dict)
    #: The end of the first prompt, and the replies to it.
    prompt: str = ""
    replies: tuple[str, ...] = ("A", "B")

    def publish(self, folder):
        """Writes the benchmark and returns its folder; a video without an ending is a folder of images."""
        for name, rows in self.tables.items():
            write_table(folder / name, rows)
        for level, name in enumerate(self.videos):
            write_video(folder / name, 20 + 10 * level)
        return folder


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))


def write_video(path, level=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        film(path.with_suffix(".mp4"), level)
        path.with_suffix(".mp4").rename(path)
        return
    path.mkdir()
    for number in (1, 2, 10):
        cv2.imwrite(str(path / f"{number}.jpg"), np.full((64, 64, 3), 20 * number, np.uint8))


def mc(question, options, answer, video="v.mp4", **more):
    """A row of TVBench, MVBench or MLVU."""
    return {"video": video, "question": question, "candidates": options, "answer": answer, **more}


CASES = [
    Case(
        "tempcompass",
        {
            # The same question about two videos with different answers, and with the same answer.
            "questions/multi-choice.json": {
                "1": {"direction": [{"question": f"Where to?\n{THREE}", "answer": "A. to the left"}]},
                "1_reverse": {
                    "direction": [{"question": f"Where to?\n{THREE}", "answer": "B. to the right"}]
                },
                "2": {"speed": [{"question": f"How?\n{THREE}", "answer": "C. upwards"}]},
                "1_2_0": {"speed": [{"question": f"How?\n{THREE}", "answer": "C. upwards"}]},
            },
            "questions/yes_no.json": {"1": {"action": [{"question": "Does it?", "answer": "no"}]}},
            "questions/caption_matching.json": {
                "2": {
                    "order": [
                        {"question": "Which?\nOption 1: up\nOption 2: down", "answer": "Option 2: down"}
                    ]
                }
            },
            "questions/captioning.json": {
                "1": {"order": [{"question": "Describe it.", "answer": "It turns."}]}
            },
        },
        ("videos/1.mp4", "videos/1_reverse.mp4", "videos/2.mp4", "videos/1_2_0.mp4"),
        wrong=("multi-choice/1",),
        figures={
            "accuracy": 5 / 6,
            "multi-choice, conflicting videos": 0,
            "caption_matching": 1,
            "caption_matching, order": 1,
            "multi-choice": 3 / 4,
            "multi-choice, direction": 1 / 2,
            "multi-choice, speed": 1,
            "yes_no": 1,
            "yes_no, action": 1,
        },
        chance={"multi-choice, conflicting videos": 1 / 9, "accuracy": (4 / 3 + 1) / 6},
        prompt="up\nOption 2: down\nPlease directly give the best option:",
        replies=("Option 1", "Option 2"),
    ),
    Case(
        "vinoground",
        {
            f"vinoground_{part}score.json": [
                {
                    "idx": f"{pair}_{side}",
                    "video_name": f"{folder}/{pair}_{side}.mp4",
                    "question": f"Which?\n{TWO}",
                    "GT": answer,
                }
                for pair in (0, 1)
                for side, answer in (("pos", "A"), ("neg", "B"))
            ]
            for part, folder in (("text", "vinoground_videos"), ("video", "vinoground_videos_concated"))
        },
        tuple(
            f"{folder}/{pair}_{side}.mp4"
            for folder in ("vinoground_videos", "vinoground_videos_concated")
            for pair in (0, 1)
            for side in ("pos", "neg")
        ),
        wrong=("vinoground_textscore/1", "vinoground_videoscore/0"),
        figures={
            "group score": 1 / 2,
            "text score": 1 / 2,
            "video score": 1 / 2,
            "vinoground_textscore": 3 / 4,
            "vinoground_videoscore": 3 / 4,
        },
        chance={"text score": 1 / 4, "video score": 1 / 4, "group score": 1 / 16},
        prompt=f"Which?\n{TWO}",
    ),
    Case(
        "tvbench",
        {
            "json/action_sequence.json": [mc("What?", ["Up", "Down"], "Down", start=0.25, end=0.5)],
            "json/action_count.json": [
                mc("How often?", ["1", "2", "3"], "3"),
                mc("And now?", ["1", "2"], "1"),
            ],
        },
        ("video/action_sequence/v.mp4", "video/action_count/v.mp4"),
        wrong=("action_count/0",),
        figures={"accuracy": 2 / 3, "action_count": 1 / 2, "action_sequence": 1},
        chance={"accuracy": (1 / 3 + 1 / 2 + 1 / 2) / 3},
        prompt="Question: How often?\nOptions:\n(A) 1\n(B) 2\n(C) 3\nOnly give the best option.",
        replies=("Best option:(A", "Best option:(B", "Best option:(C"),
    ),
    Case(
        "tomato",
        {
            f"data/{task}.json": {
                "0": {
                    "question": "How many?",
                    "options": ["0", "1", "2"],
                    "answer": 2,
                    "key": "0099-01",
                    "demonstration_type": "human",
                    "motion_type": "count",
                    "variation": {"zoom": 1},
                }
            }
            for task in ("count", "shape&trend")
        },
        ("videos/human/0099-01.mp4",),
        wrong=("shape&trend/0",),
        figures={"accuracy": 1 / 2, "count": 1, "shape&trend": 0},
        chance={"accuracy": 1 / 3},
        prompt="How many?\nA. 0\nB. 1\nC. 2\nAnswer with the letter of the right option.",
        replies=("A", "B", "C"),
    ),
    Case(
        "mvbench",
        {
            "json/action_sequence.json": [mc("What?", ["Sat", "Ran"], "Ran", "ZS.mp4", start=0.2, end=0.6)],
            "json/episodic_reasoning.json": [mc("Who?", ["He", "She"], "He", "castle", start=0.0, end=0.5)],
            # These two have files of the same name.
            "json/moving_count.json": [mc("How many?", ["1", "2", "3", "4"], "4", "video_1.mp4")] * 2,
            "json/action_count.json": [mc("How many?", ["1", "2"], "1", "video_1.mp4")],
            "json/action_antonym.json": [mc("Which?", ["1", "2"], "1", "7.webm")],
        },
        (
            "video/star/Charades_v1_480/ZS.mp4",
            "video/tvqa/frames_fps3_hq/castle",
            "video/ssv2_video/7.mkv",
            "video/clevrer/video_validation/video_1.mp4",
            "video/perception/videos/video_1.mp4",
        ),
        wrong=("moving_count/0",),
        figures={
            # The mean over five tasks, not over six questions.
            "mean over tasks": 4.5 / 5,
            "action_antonym": 1,
            "action_count": 1,
            "action_sequence": 1,
            "episodic_reasoning": 1,
            "moving_count": 1 / 2,
        },
        chance={"mean over tasks": (4 / 2 + 1 / 4) / 5},
        prompt="Question: Which?\nOptions:\n(A) 1\n(B) 2\nOnly give the best option.",
        replies=("Best option:(A", "Best option:(B"),
    ),
    Case(
        "video_mme",
        {
            "videomme/test-00000-of-00001.parquet": [
                {
                    "video_id": f"00{number}",
                    "duration": duration,
                    "domain": "Knowledge",
                    "videoID": name,
                    "question_id": f"00{number}-1",
                    "task_type": kind,
                    "question": "What comes last?",
                    "options": ["A. X.", "B. Y.", "C. Z.", "D. W."],
                    "answer": "C",
                }
                for number, (duration, name, kind) in enumerate(
                    [("short", "AbC", "Temporal Reasoning"), ("long", "aBc", "Counting")]
                )
            ]
        },
        # Endings as in the authors' archives; names differ only in upper case.
        ("data/AbC.MP4", "data/aBc.mkv"),
        wrong=("videomme/1",),
        figures={
            "accuracy": 1 / 2,
            "long videos": 0,
            "short videos": 1,
            "Counting": 0,
            "Temporal Reasoning": 1,
        },
        chance={"accuracy": 1 / 4},
        prompt="What comes last?\nA. X.\nB. Y.\nC. Z.\nD. W.\nThe best answer is:",
        replies=("A", "B", "C", "D"),
    ),
    Case(
        "mlvu",
        {
            "json/5_order.json": [
                mc("Which order?", ["1->2", "2->1"], "2->1", "o.mp4", question_type="order")
            ],
            "json/2_needle.json": [
                mc("Where?", ["In", "On"], "In", "n.mp4", question_type="findNeedle"),
                # An answer that is no candidate, and an option that is there twice.
                mc("Where?", ["In", "On"], "Under", "n.mp4", question_type="findNeedle"),
                mc("Where?", ["In", "On", "On"], "In", "n.mp4", question_type="findNeedle"),
            ],
            "json/9_summary.json": [
                {"video": "s.mp4", "question": "Sum up.", "answer": "It ends.", "question_type": "summary"}
            ],
        },
        ("video/5_order/o.mp4", "video/2_needle/n.mp4"),
        wrong=("2_needle/0",),
        figures={"mean over tasks": 3 / 4, "findNeedle": 1 / 2, "order": 1},
        chance={"mean over tasks": ((1 / 2 + 1 / 3) / 2 + 1 / 2) / 2},
        prompt="Where?\n(A) In\n(B) On\nOnly give the best option.",
        replies=("Best Option: (A", "Best Option: (B"),
    ),
    Case(
        "vitatecs",
        {
            "data/Direction.jsonl": [
                {
                    "src_dataset": "VATEX",
                    "video_name": "AbC_000010.mp4",
                    "caption": "A man opens a door.",
                    "counterfactual": "A man closes a door.",
                    "aspect": "Direction",
                }
            ]
            * 40,
            # An older version, which is not read.
            "data_opt/Direction.jsonl": [{"nothing": 1}],
        },
        ("VATEX/AbC_000010.mp4",),
        wrong=("Direction/3",),
        figures={"accuracy": 39 / 40},
        chance={"accuracy": 1 / 2},
        prompt="\nAnswer with the letter of the right option.",
    ),
    Case(
        "temporalbench",
        {
            "temporalbench_short_qa.json": [
                {
                    "idx": f"{video}_{number}",
                    "video_name": video,
                    "category": category,
                    "dataset": "Charades",
                    "question": f"Which caption?\n{TWO}\nAnswer with a letter.",
                    "GT": "b",
                }
                for video, number, category in (
                    ("short_video/Charades/X_start_1.0_end_5.0.mp4", 0, 1),
                    ("short_video/Charades/X_start_1.0_end_5.0.mp4", 1, "Action Order"),
                    ("short_video/COIN/Y.mp4", 0, 8),
                )
            ]
        },
        ("short_video/Charades/X_start_1.0_end_5.0.mp4", "short_video/COIN/Y.mp4"),
        wrong=("temporalbench_short_qa/1",),
        figures={
            "accuracy": 2 / 3,
            "temporalbench_short_qa, MBA": 1 / 2,
            "action order": 1 / 2,
            "event order": 1,
        },
        chance={"temporalbench_short_qa, MBA": (1 / 4 + 1 / 2) / 2},
        prompt=f"Which caption?\n{TWO}\nAnswer with a letter.",
    ),
    Case(
        "aotbench",
        {
            f"data_files/input/{part}.json": [
                {
                    "qa_idx": "4",
                    "video_name": "videos/x.avi",
                    "question": f"Which way?\n{TWO}\nSay the letter.",
                    "ans": "B",
                }
            ]
            for part in ("ReverseFilm", "UCF101")
        },
        ("videos/x.mp4",),
        wrong=("UCF101/0",),
        # No mean over the files is defined.
        figures={"ReverseFilm": 1, "UCF101": 0},
        prompt=f"Which way?\n{TWO}\nSay the letter.",
    ),
    Case(
        "next_qa",
        {
            "test.csv": [
                {
                    "video": 401,
                    "question": "what then",
                    "answer": 2,
                    "qid": 6,
                    "type": kind,
                    "a0": "ran",
                    "a1": "ate",
                    "a2": "sat",
                    "a3": "left",
                    "a4": "left",
                }
                for kind in ("TN", "TC", "CW", "DL")
            ],
            "map_vid_vidorID.json": {"401": "0101/290"},
        },
        ("0101/290.mp4",),
        wrong=("test/0",),
        figures={
            "accuracy": 3 / 4,
            "causal": 1,
            "descriptive": 1,
            "temporal": 1 / 2,
            "CW": 1,
            "DL": 1,
            "TC": 1,
            "TN": 0,
        },
        chance={"accuracy": 1 / 5},
        prompt="A. ran\nB. ate\nC. sat\nD. left\nE. left\nAnswer with the letter of the right option.",
        replies=("A", "B", "C", "D", "E"),
    ),
    Case(
        "timeblind",
        {
            "data.jsonl": [
                {
                    "index": index,
                    "video_path": f"TimeBlind/videos/vid_{index // 4}_{index % 2}.mp4",
                    "question": "Does it stir twice?" if is_yes_no else f"Which?\n{TWO}",
                    "answer": (("yes", "no"), "AB")[not is_yes_no][index % 4 in (1, 2)],
                    "type": "yes_no" if is_yes_no else "multiple_choice",
                }
                for index in range(8)
                for is_yes_no in [index % 4 < 2]
            ]
        },
        tuple(f"videos/TimeBlind/videos/vid_{instance}_{side}.mp4" for instance in (0, 1) for side in (0, 1)),
        # The first question about the second video.
        wrong=("data/1",),
        figures={
            "accuracy": 7 / 8,
            "I-Acc": 1 / 2,
            "Q-Acc": 3 / 4,
            "V-Acc": 3 / 4,
            "multiple_choice": 1,
            "yes_no": 3 / 4,
        },
        chance={"I-Acc": 1 / 16, "Q-Acc": 1 / 4, "V-Acc": 1 / 4, "accuracy": 1 / 2},
        prompt="Does it stir twice? Please output Yes or No.",
        replies=("yes", "no"),
    ),
    Case(
        "mvp",
        {
            "temporal_reasoning/mini-00000-of-00001.parquet": [
                {
                    "video_id": f"t_{pair}_{side}",
                    "video_path": f"s/{pair}_{side}.mp4",
                    "question": "What does it do?",
                    "answer": ("It's up", "down")[side],
                    "candidates": '["It\'s up", "down"]',
                    "source": "s",
                }
                for pair in (0, 1)
                for side in (0, 1)
            ]
        },
        tuple(f"videos/s/{pair}_{side}.mp4" for pair in (0, 1) for side in (0, 1)),
        wrong=("temporal_reasoning/3",),
        figures={"accuracy": 3 / 4, "pair accuracy": 1 / 2},
        chance={"pair accuracy": 1 / 4},
        prompt="What does it do?\nA. It's up\nB. down\nAnswer with the letter of the right option.",
    ),
    Case(
        "videohallucer",
        {
            "temporal/temporal.json": [
                {
                    "basic": {"video": "v.mp4", "question": "First he sits?", "answer": "yes"},
                    "hallucination": {"video": "v.mp4", "question": "First he eats?", "answer": "no"},
                    "type": "temporal_relative",
                }
            ]
            * 2
        },
        ("temporal/videos/v.mp4",),
        wrong=("temporal/1/1",),
        figures={"accuracy": 3 / 4, "pair accuracy": 1 / 2},
        chance={"pair accuracy": 1 / 4},
        prompt="First he sits? Answer the question using 'yes' or 'no'.",
        replies=("yes", "no"),
    ),
    Case(
        "perception_test",
        {
            "mc_question_val/validation-00000-of-00001.parquet": [
                {
                    "video_name": "video_12",
                    "question": "Where?",
                    "question_id": "4",
                    "options": ["l", "m", "r"],
                    "answer_id": "1",
                    "area": area,
                    "reasoning": "Descriptive",
                    "tag": ["x"],
                }
                for area in ("Memory", "Physics")
            ],
            "cut_frame_mapping_valid.json": {"video_12": 3},
        },
        ("videos/video_12.mp4",),
        wrong=("mc_question_val/1",),
        figures={"accuracy": 1 / 2, "Memory": 1, "Physics": 0},
        chance={"accuracy": 1 / 3},
        prompt="Where?\nA. l\nB. m\nC. r\nAnswer with the letter of the right option.",
        replies=("A", "B", "C"),
    ),
    Case(
        "longvideobench",
        {
            "validation-00000-of-00001.parquet": [
                {
                    "id": f"x_{number}",
                    "video_path": "abc.mp4",
                    "question": "What?",
                    "option0": "a",
                    "option1": "b",
                    "option2": "N/A",
                    "option3": "N/A",
                    "option4": "N/A",
                    "correct_choice": 1,
                    "duration_group": group,
                    "question_category": "E3E",
                }
                for number, group in enumerate((15, 3600))
            ]
        },
        ("videos/abc.mp4",),
        wrong=(),
        figures={"accuracy": 1, "up to 15 seconds": 1, "up to 3600 seconds": 1},
        chance={"accuracy": 1 / 2},
        prompt="What?\nA. a\nB. b\nAnswer with the letter of the right option.",
    ),
]
