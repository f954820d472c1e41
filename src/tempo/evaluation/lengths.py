"""The check before a run that the longest video of each benchmark fits into the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tempo.config import Config
from tempo.config.running import Scoring
from tempo.core.records import Sample
from tempo.engine.types import SkipRecord
from tempo.evaluation.benchmark import read_samples
from tempo.evaluation.evaluate import by_video, options_of
from tempo.evaluation.public.tasks import Task, load_task
from tempo.model.chat import Prefix, VideoLM, check_length
from tempo.model.limits import max_positions
from tempo.model.loading import load_processor, read_config
from tempo.video.find import read_header
from tempo.video.frames import frame_shape


def check_benchmarks(config: Config) -> None:
    """Raises ValueError if a benchmark cannot be read, or if its longest video is too long for the model."""
    settings = config.evaluation
    if path := settings.benchmark:
        samples = read_samples(Path(path), max_bad_share=config.run.max_bad_share).rows.values()
        asked = [(str(Path(path).parent / rows[0].video), rows) for rows in by_video([*samples])]
        _check_longest(config, path, asked, settings.scoring)
    for public in settings.benchmarks:
        check_task(load_task(public), config)


def check_task(task: Task, config: Config) -> None:
    """Raises ValueError if the longest video is too long for the model; ignores those inside archives."""
    scoring = "letter" if task.settings.scoring == "generate" else task.settings.scoring
    found = [(task.data.find(rows[0].video), [row.sample(scoring) for row in rows]) for rows in task.asked()]
    asked = [(video.files[0], rows) for video, rows in found if video and not video.archive]
    _check_longest(config, task.settings.name, asked, scoring, task.num_frames)


def _check_longest(
    config: Config,
    name: str,
    asked: Sequence[tuple[str, Sequence[Sample]]],
    scoring: Scoring,
    num_frames: int | None = None,
) -> None:
    """`asked` are the paths of videos, whose headers are read, with the questions about them."""
    frames, model, shapes = config.frames, config.model, []
    if num_frames:
        frames = frames.model_copy(update={"fps": 100.0 * num_frames, "max_frames": num_frames})
    for path, rows in asked:
        with suppress(SkipRecord):
            shapes.append((frame_shape(read_header(path, ""), frames), path, rows))
    if shapes:
        (*size, fps), path, rows = max(shapes, key=lambda row: (row[0][0], row[0][1] * row[0][2]))
        lm = VideoLM(None, load_processor(model.path, trust_remote_code=model.trust_remote_code))
        options = [option for row in rows for option in options_of(row, scoring)]
        group = lm.group(Prefix(np.zeros((*size, 3), np.uint8), "", fps=fps), options)
        limit = max_positions(read_config(model.path, trust_remote_code=model.trust_remote_code))
        rate = {"rate": "num_frames"} if num_frames else {}
        check_length(lm, group, f"{name}: {path}", limit=limit, **rate)
