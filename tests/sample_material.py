"""Runs and rows for tests, and whether the answers of the embedded world are true."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tempo.config import parse_config
from tempo.core.records import Clip, Clips, Pair, Video
from tempo.engine.types import Context
from tempo.model.loading import embedded_path
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, Event
from tempo.video.frames import encode_jpeg

SAMPLE = {
    "id": "v/0",
    "video": "v.mp4",
    "aspect": "direction",
    "format": "multiple_choice",
    "question": "Where to?",
    "options": ["Left.", "Right."],
    "answer": 1,
}

#: A run on a few small stories, without training.
SMALL_RUN = """
[run]
num_workers = 1
[synthetic]
num_videos = 7
num_held_out = 2
min_shots = 4
max_shots = 6
[frames]
max_pixels = 4096
[captions]
max_new_tokens = 64
[responses]
max_new_tokens = 128
"""

#: Characters that easily break a file of lines: quotes, newlines, line separators, other scripts.
ODD_TEXT = 'A "red" ball,\nthen\u2028a cube; 猫 {"a": 1} \\n'


def config_of(**sections):
    """The configuration of a run on a user's videos with these sections."""
    return parse_config({"videos": {"paths": ["x"]}, **sections})


def context_of(directory, **sections):
    """The context of such a run."""
    return Context(config_of(**sections), directory)


def write_rows(path, *rows):
    """Writes a JSONL file and returns its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def video_row(name, path="", **facts):
    """The record of a video."""
    known = {"duration_seconds": 1.0, "width": 64, "height": 64, "fps": 8.0, "codec": "h264"}
    return Video(id=name, path=str(path or f"{name}.mp4"), **known | facts)


def launch(directory, code, *options):
    """What code prints in one process of `accelerate launch` with the shipped settings, and its errors."""
    script = directory / "script.py"
    script.write_text(code)
    config = Path(__file__).parents[1] / "configs" / "accelerate" / "fsdp2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *options]
    command += ["--num_processes", "1", "--main_process_port", "0", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return ended.stdout.strip(), ended.stderr


def pair_of(video_id, kind="shuffle", level=4, order=(1, 0), **changes):
    """A pair of a video of four clips."""
    row = {
        "id": f"{video_id}/{kind}-{level:02d}",
        "video_id": video_id,
        "video": f"{video_id}.mp4",
        "prompt": "Describe the video in order.",
        "chosen": f"As filmed: {ODD_TEXT}",
        "rejected": f"Otherwise: {kind} {level}.",
        "num_clips": 4,
    }
    return Pair.model_validate({**row, "kind": kind, "level": level, "order": order, **changes})


def clips_of(*bounds, name="v"):
    """A video whose clips lie between these seconds, with two key frames each."""
    clips = [
        Clip(group=i, first_shot=i, num_shots=1, start_seconds=a, end_seconds=b, key_frames=(0, 1))
        for i, (a, b) in enumerate(bounds)
    ]
    return Clips(id=name, path=f"/films/{name}.mp4", duration_seconds=bounds[-1][1], clips=tuple(clips))


def grey_jpegs(levels, size=(8, 8)):
    """An image of each grey level."""
    return [encode_jpeg(np.full((*size, 3), level, np.uint8), 100) for level in levels]


def changed_model(directory: Path, key: str, value: float) -> str:
    """The path of a copy of the embedded model with another value of a key of its configuration."""
    path = shutil.copytree(embedded_path(), directory)
    text, num_found = re.subn(rf'"{key}": [\d.]+', f'"{key}": {value}', (path / "config.json").read_text())
    assert num_found
    (path / "config.json").write_text(text)
    return str(path)


def short_model(directory: Path, num_positions: int) -> str:
    """The path of a copy of the embedded model that was made for this number of tokens."""
    return changed_model(directory / "short", "max_position_embeddings", num_positions)


def is_true(shown: Sequence[Event], question: str, option: str) -> bool:
    """Whether an option answers a question about these events truly."""
    events = {event.thing: event for event in shown}
    place = {thing: i for i, thing in enumerate(events)}
    captions = [language.caption(event) for event in shown]
    if named := re.fullmatch(r"Which comes first, the (.+) or the (.+)\?", question):
        return option == f"The {min(named.groups(), key=place.get)}."
    if named := re.fullmatch(r"Does the (.+) come before the (.+)\?", question):
        return option == ("Yes." if place[named[1]] < place[named[2]] else "No.")
    if named := re.fullmatch(r"What comes right (after|before) the (.+)\?", question):
        return option == captions[place[named[2]] + (1 if named[1] == "after" else -1)]
    if named := re.fullmatch(r"Is there a (.+)\?", question):
        return option == ("Yes." if named[1] in events else "No.")
    if named := re.fullmatch(r"Where is the (.+)\?", question):
        return option == f"In the {events[named[1]].setting}."
    if named := re.fullmatch(r"Describe what the (.+) does\.", question):
        return option == language.caption(events[named[1]])
    if named := re.fullmatch(r"Does the (\w+ \w+) (\w+ ?\w*)\?", question):
        event = events[named[1]]
        asked = {language.check_of(event, action) for action in ACTIONS[event.aspect]}
        assert question in asked
        return option == ("Yes." if question == language.check_of(event, event.action) else "No.")
    if thing := next((thing for thing in events if f"the {thing}" in question), None):
        return option == f"It {events[thing].action}."
    return option == language.fuse(captions)
