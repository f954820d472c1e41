"""What is said of the videos of a probe: by the model itself, or given for several models alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tempo.config import SamplingConfig
from tempo.core.records import Record, Skipped
from tempo.core.store import read_rows, write_lines
from tempo.evaluation.probe_videos import Seen, left_out
from tempo.model.answers import Answer, Request, without_reasoning
from tempo.model.chat import VideoLM
from tempo.model.generate import generate

#: Videos whose frames are in memory at one time, described together.
BATCH = 8


class Description(Record):
    """What was said of the video `id`."""

    text: str


def describe(
    lm: VideoLM, seen: Sequence[Seen], *, prompt: str, max_new_tokens: int
) -> list[Description | Skipped]:
    """The model's own greedy description of each video, or a drop where it gave none."""
    requests = [Request(prompt, 0, video.footage.frames, video.footage.fps) for video in seen]
    greedy = SamplingConfig(temperature=0, batch_size=BATCH)
    answers = generate(lm, requests, sampling=greedy, max_new_tokens=max_new_tokens)
    return [_own(video, without_reasoning(answer)) for video, answer in zip(seen, answers, strict=True)]


def _own(video: Seen, answer: Answer) -> Description | Skipped:
    """A cut answer is set aside: the end of turn after it would be scored, and the model did not say it."""
    if answer.text and answer.is_whole:
        return Description(id=video.id, text=answer.text)
    fault = "the model said nothing" if answer.is_whole else "cut; more --max-new-tokens may help"
    return left_out(video.path, "no description", fault)


def given_text(video: Seen, texts: Mapping[str, str]) -> Description | Skipped:
    """The text given for a video by its id, or a drop."""
    if video.id in texts:
        return Description(id=video.id, text=texts[video.id])
    return left_out(video.path, "no text given", f"--text has no row with the id {video.id!r}")


def read_texts(path: Path) -> dict[str, str]:
    """Texts by video id of a JSONL file with `id` and `text`; raises ValueError that names line or id."""
    rows = read_rows(path, Description, key="--text")
    texts = {row.id: row.text for row in rows}
    if len(texts) < len(rows):
        raise ValueError(f"--text {path} has {len(rows)} rows for {len(texts)} videos; give each one text")
    if empty := [row.id for row in rows if not row.text.strip()]:
        raise ValueError(f"--text {path}: the text of {empty[0]!r} is empty; remove the row")
    return texts


def write_texts(path: Path, descriptions: Sequence[Description]) -> None:
    """Writes what `read_texts` reads."""
    write_lines(path, (row.model_dump_json() for row in descriptions))
