"""Made-up rows of every public benchmark, in the shape in which its authors publish them, and tiny videos."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
from tiny_film import film

TWO = "A. to the left\nB. to the right"
THREE = f"{TWO}\nC. upwards"
INSTRUCTION = "Answer with the letter of the right option."


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


def table(columns, *rows):
    """Rows as objects; `columns` are their keys."""
    return [dict(zip(columns.split(), row, strict=True)) for row in rows]


def mc(question, options, answer, video="v.mp4", **more):
    """A row of TVBench, MVBench or MLVU."""
    return {"video": video, "question": question, "candidates": options, "answer": answer, **more}


def by_video(*rows):
    """A table of the repository of TempCompass."""
    return {video: {dim: [{"question": question, "answer": answer}]} for video, dim, question, answer in rows}


SIDES = [*product((0, 1), ("pos", "neg"))]
VINOGROUND = {"text": "vinoground_videos", "video": "vinoground_videos_concated"}
NEEDLE = {"video": "n.mp4", "question_type": "findNeedle"}
TWO_QUESTIONS = [
    ("Does it stir twice?", ("yes", "no"), "yes_no"),
    (f"Which?\n{TWO}", ("B", "A"), "multiple_choice"),
]
#: A list as text.
OPTIONS = '["It\'s up", "no"]'
FIVE = ("ran", "ate", "sat", "left", "left")
LONG_NAME = "short_video/Charades/X_start_1.0_end_5.0.mp4"

CASES = [
    Case(
        "tempcompass",
        {
            "questions/multi-choice.json": by_video(
                # The same question about two videos, with different answers and with the same answer.
                ("1", "direction", f"Where to?\n{THREE}", "A. to the left"),
                ("1_reverse", "direction", f"Where to?\n{THREE}", "B. to the right"),
                ("2", "speed", f"How?\n{THREE}", "C. upwards"),
                ("1_2_0", "speed", f"How?\n{THREE}", "C. upwards"),
            ),
            "questions/yes_no.json": by_video(("1", "action", "Does it?", "no")),
            "questions/caption_matching.json": by_video(
                ("2", "order", "Which?\nOption 1: up\nOption 2: down", "Option 2: down")
            ),
            "questions/captioning.json": by_video(("1", "order", "Describe it.", "It turns.")),
        },
        ("videos/1.mp4", "videos/1_reverse.mp4", "videos/2.mp4", "videos/1_2_0.mp4"),
        wrong=("multi-choice/1",),
        figures={
            "accuracy": 5 / 6,
            "multi-choice, conflicting videos": 0,
            "multi-choice": 3 / 4,
            "multi-choice, direction": 1 / 2,
            "multi-choice, speed": 1,
            "yes_no": 1,
            "yes_no, action": 1,
            "caption_matching": 1,
            "caption_matching, order": 1,
        },
        chance={"multi-choice, conflicting videos": 1 / 9, "accuracy": (4 / 3 + 1) / 6},
        prompt="up\nOption 2: down\nPlease directly give the best option:",
        replies=("Option 1", "Option 2"),
    ),
    Case(
        "vinoground",
        {
            f"vinoground_{part}score.json": table(
                "idx video_name question GT",
                *(
                    (f"{i}_{side}", f"{folder}/{i}_{side}.mp4", f"Which?\n{TWO}", "AB"[side == "neg"])
                    for i, side in SIDES
                ),
            )
            for part, folder in VINOGROUND.items()
        },
        tuple(f"{folder}/{i}_{side}.mp4" for folder in VINOGROUND.values() for i, side in SIDES),
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
            "json/action_count.json": [mc("What?", ["1", "2", "3"], "3"), mc("And now?", ["1", "2"], "1")],
        },
        ("video/action_sequence/v.mp4", "video/action_count/v.mp4"),
        wrong=("action_count/0",),
        figures={"accuracy": 2 / 3, "action_count": 1 / 2, "action_sequence": 1},
        prompt="Question: What?\nOptions:\n(A) 1\n(B) 2\n(C) 3\nOnly give the best option.",
        replies=("Best option:(A", "Best option:(B", "Best option:(C"),
    ),
    Case(
        "tomato",
        {
            f"data/{task}.json": {
                "0": {"question": "How many?", "options": ["0", "1", "2"], "answer": 2, "key": "0099-01"}
                | {"demonstration_type": "human", "motion_type": "count", "variation": {"zoom": 1}}
            }
            for task in ("count", "shape&trend")
        },
        ("videos/human/0099-01.mp4",),
        wrong=("shape&trend/0",),
        figures={"accuracy": 1 / 2, "count": 1, "shape&trend": 0},
        prompt=f"How many?\nA. 0\nB. 1\nC. 2\n{INSTRUCTION}",
        replies=("A", "B", "C"),
    ),
    Case(
        "mvbench",
        {
            "json/action_sequence.json": [mc("What?", ["Sat", "Ran"], "Ran", "ZS.mp4", start=0.2, end=0.6)],
            "json/episodic_reasoning.json": [mc("Who?", ["I", "You"], "I", "castle", start=0.0, end=0.5)],
            # Files of the same name in two folders.
            "json/moving_count.json": [mc("What?", ["1", "2", "3", "4"], "4", "video_1.mp4")] * 2,
            "json/action_count.json": [mc("What?", ["1", "2"], "1", "video_1.mp4")],
            "json/action_antonym.json": [mc("Which?", ["1", "2"], "1", "7.webm")],
        },
        (
            *("video/star/Charades_v1_480/ZS.mp4", "video/tvqa/frames_fps3_hq/castle", "video/ssv2/7.mkv"),
            *("video/clevrer/video_validation/video_1.mp4", "video/perception/videos/video_1.mp4"),
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
            "videomme/test-00000-of-00001.parquet": table(
                "videoID duration task_type question options answer",
                # Names that differ only in upper case, with endings as in the authors' archives.
                ("AbC", "short", "Temporal Reasoning", "What is last?", ["A. X.", "B. Y.", "C. Z."], "C"),
                ("aBc", "long", "Counting", "What is last?", ["A. X.", "B. Y.", "C. Z."], "C"),
            )
        },
        ("data/AbC.MP4", "data/aBc.mkv"),
        wrong=("videomme/1",),
        figures={
            "accuracy": 1 / 2,
            "long videos": 0,
            "short videos": 1,
            "Counting": 0,
            "Temporal Reasoning": 1,
        },
        prompt="What is last?\nA. X.\nB. Y.\nC. Z.\nThe best answer is:",
        replies=("A", "B", "C"),
    ),
    Case(
        "mlvu",
        {
            "json/5_order.json": [mc("?", ["1->2", "2->1"], "2->1", "o.mp4", question_type="order")],
            "json/2_needle.json": [
                mc("Where?", ["In", "On"], "In", **NEEDLE),
                # An answer that is no candidate, and an option that is there twice.
                mc("Where?", ["In", "On"], "Under", **NEEDLE),
                mc("Where?", ["In", "On", "On"], "In", **NEEDLE),
            ],
            "json/9_summary.json": table("video question answer question_type", ("s", "?", "!", "summary")),
            # The test set has letters, and up to six options.
            "json/test.json": [mc("?", ["1", "2", "3", "4", "5", "6"], "F", "o.mp4", question_type="order")],
        },
        ("video/5_order/o.mp4", "video/2_needle/n.mp4"),
        wrong=("2_needle/0",),
        figures={"mean over tasks": 3 / 4, "findNeedle": 1 / 2, "order": 1},
        chance={"mean over tasks": ((1 / 2 + 1 / 3) / 2 + (1 / 2 + 1 / 6) / 2) / 2},
        prompt="Where?\n(A) In\n(B) On\nOnly give the best option.",
        replies=("Best Option: (A", "Best Option: (B"),
    ),
    Case(
        "vitatecs",
        {
            "data/Direction.jsonl": table(
                "src_dataset video_name caption counterfactual aspect",
                *[("VATEX", "AbC_000010.mp4", "A door opens.", "A door closes.", "Direction")] * 40,
            ),
            # An older version, which is not read.
            "data_opt/Direction.jsonl": [{"nothing": 1}],
        },
        ("VATEX/AbC_000010.mp4",),
        wrong=("Direction/3",),
        figures={"accuracy": 39 / 40},
        prompt=f"\n{INSTRUCTION}",
    ),
    Case(
        "temporalbench",
        {
            "temporalbench_short_qa.json": table(
                "video_name category question GT",
                (LONG_NAME, 1, f"Which?\n{TWO}\nAnswer with a letter.", "B"),
                (LONG_NAME, "Action Order", f"Which?\n{TWO}\nAnswer with a letter.", "b"),
                ("short_video/COIN/Y.mp4", 8, f"Which?\n{TWO}\nAnswer with a letter.", "A"),
            )
        },
        (LONG_NAME, "short_video/COIN/Y.mp4"),
        wrong=("temporalbench_short_qa/1",),
        figures={
            "accuracy": 2 / 3,
            "temporalbench_short_qa, MBA": 1 / 2,
            "action order": 1 / 2,
            "event order": 1,
        },
        chance={"temporalbench_short_qa, MBA": (1 / 4 + 1 / 2) / 2},
        prompt=f"Which?\n{TWO}\nAnswer with a letter.",
    ),
    Case(
        "aotbench",
        {
            f"data_files/input/{part}.json": table(
                "qa_idx video_name question ans", ("4", "videos/x.avi", f"Which way?\n{TWO}\nA letter.", "B")
            )
            for part in ("ReverseFilm", "UCF101")
        },
        ("videos/x.mp4",),
        wrong=("UCF101/0",),
        # No mean over the files is defined.
        figures={"ReverseFilm": 1, "UCF101": 0},
        prompt=f"Which way?\n{TWO}\nA letter.",
    ),
    Case(
        "next_qa",
        {
            "test.csv": table(
                "video question answer qid type a0 a1 a2 a3 a4",
                *((401, "what then", 2, 6, kind, *FIVE) for kind in ("TN", "TC", "CW", "DL")),
            ),
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
        prompt=f"what then\nA. ran\nB. ate\nC. sat\nD. left\nE. left\n{INSTRUCTION}",
        replies=("A", "B", "C", "D", "E"),
    ),
    Case(
        "timeblind",
        {
            "data.jsonl": table(
                "index video_path question answer type",
                *(
                    (i, f"TimeBlind/videos/vid_{i // 4}_{i % 2}.mp4", question, answers[i % 2], kind)
                    for i in range(8)
                    for question, answers, kind in [TWO_QUESTIONS[i % 4 // 2]]
                ),
            )
        },
        tuple(f"videos/TimeBlind/videos/vid_{i}_{side}.mp4" for i in (0, 1) for side in (0, 1)),
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
        replies=("Yes", "No"),
    ),
    Case(
        "mvp",
        {
            "temporal_reasoning/mini-00000-of-00001.parquet": table(
                "video_id video_path question answer candidates",
                *(
                    (f"t_{i // 2}_{i % 2}", f"s/{i}.mp4", "Why?", ("It's up", "no")[i % 2], OPTIONS)
                    for i in range(4)
                ),
            )
        },
        tuple(f"videos/s/{i}.mp4" for i in range(4)),
        wrong=("temporal_reasoning/3",),
        figures={"accuracy": 3 / 4, "pair accuracy": 1 / 2},
        prompt=f"Why?\nA. It's up\nB. no\n{INSTRUCTION}",
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
        prompt="First he sits? Answer the question using 'yes' or 'no'.",
        replies=("yes", "no"),
    ),
]
