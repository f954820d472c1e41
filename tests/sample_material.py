"""Rows of a benchmark, and whether the answers of the embedded world are true."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tempo.model.loading import embedded_path
from tempo.synthetic import language
from tempo.synthetic.world import ACTIONS, Event

SAMPLE = {
    "id": "v/0",
    "video": "v.mp4",
    "aspect": "direction",
    "format": "multiple_choice",
    "question": "Where to?",
    "options": ["Left.", "Right."],
    "answer": 1,
}


def short_model(directory: Path, num_positions: int) -> str:
    """The path of a copy of the embedded model that was made for this number of tokens."""
    path = shutil.copytree(embedded_path(), directory / "short")
    text = (path / "config.json").read_text()
    text = text.replace('"max_position_embeddings": 4096', f'"max_position_embeddings": {num_positions}')
    (path / "config.json").write_text(text)
    return str(path)


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
