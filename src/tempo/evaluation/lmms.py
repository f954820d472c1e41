"""A model and tasks for lmms-eval: `--model tempo`, and `--include_path` with the folder `lmms_tasks`.

The model is loaded and sees frames as in the rest of tempo, and supports likelihoods, which lmms-eval's own
classes for Qwen do not. The tasks ask the questions of a file in tempo's format, named by TEMPO_BENCHMARK.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.models.registry_v2 import ModelManifest

from tempo.config import FramesConfig, SamplingConfig
from tempo.evaluation.benchmark import STATIC_ASPECTS, read_samples
from tempo.evaluation.evaluate import options_of
from tempo.model.answers import Request
from tempo.model.chat import Continuation, Prefix, log_probs
from tempo.model.generate import generate
from tempo.model.loading import load_model
from tempo.video.frames import Frames, sample_video

#: Maximum length of an answer if a task does not set one.
MAX_NEW_TOKENS = 128


def manifest() -> ModelManifest:
    """The entry point of lmms-eval."""
    return ModelManifest(model_id="tempo", simple_class_path=f"{__name__}.Tempo")


class Tempo(lmms):  # type: ignore[misc]
    """A checkpoint that tempo can load. One process; questions may have one video or none.

    `frames` are keys of the section [frames], the other options those of `load_model`.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "embedded",
        *,
        device: str = "auto",
        dtype: Any = "auto",
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **frames: Any,
    ) -> None:
        super().__init__()
        self._lm = load_model(pretrained, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        self._frames = FramesConfig(**frames)

    @torch.no_grad()
    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """For each continuation its negative log-likelihood with its end of turn, in nats, and False.

        The sign is that of lmms-eval's other models: its tasks choose the lowest value.
        """
        losses = list[GenerationResult]()
        # The options of a question are consecutive, and share one encoding of the video.
        for (_, task, split), group in groupby(requests, key=lambda request: request.args[3:6]):
            rows = [request.args for request in group]
            frames = self._read(rows[0][2], self.task_dict[task][split][rows[0][3]])
            prefix = Prefix(frames.images if frames else None, "", **_times(frames))
            answers = [Continuation(option.strip(), question) for question, option, *_ in rows]
            found = log_probs(self._lm, prefix, answers)
            # Version 0.7.3 converts anything else to text.
            losses += [GenerationResult((-float(logp), False)) for logp in found]
        return losses

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request, greedy unless the task sets a temperature, up to a stop string."""
        answers = []
        for prompt, options, visual, doc_id, task, split in (request.args for request in requests):
            frames = self._read(visual, self.task_dict[task][split][doc_id])
            request = Request(prompt, seed=0, frames=frames.images if frames else None, **_times(frames))
            sampling = SamplingConfig(temperature=options.get("temperature") or 0.0, repetition_penalty=1.0)
            max_new_tokens = options.get("max_new_tokens", MAX_NEW_TOKENS)
            (answer,) = generate(self._lm, [request], sampling=sampling, max_new_tokens=max_new_tokens)
            stops = options.get("until") or []
            text = answer.text
            for stop in [stops] if isinstance(stops, str) else stops:
                text = text.split(stop)[0] if stop else text
            answers.append(text)
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("the model `tempo` does not support tasks of several rounds")

    def _read(self, doc_to_visual: Any, doc: Any) -> Frames | None:
        """The frames of the question's video; raises ValueError for anything but one video file."""
        visuals = list(doc_to_visual(doc) or [])
        if not visuals:
            return None
        if len(visuals) > 1 or not isinstance(visuals[0], str | Path):
            raise ValueError(f"the model `tempo` takes one video file for a question, got {visuals}")
        return sample_video(visuals[0], self._frames)


def _times(frames: Frames | None) -> dict[str, Any]:
    return {"fps": frames.fps, "seconds": frames.seconds.tolist()} if frames else {}


class Questions(ConfigurableTask):  # type: ignore[misc]
    """A task about the questions of the file TEMPO_BENCHMARK, read as `tempo run` reads it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: Any = None) -> None:
        """Reads the file; raises ValueError if it is not set or has bad rows (see `read_samples`)."""
        path = Path(os.environ.get("TEMPO_BENCHMARK", ""))
        if not path.is_file():
            raise ValueError(
                f"TEMPO_BENCHMARK={str(path)!r} is not a file. Set it to a JSONL file of questions"
            )
        rows = []
        for sample in read_samples(path).rows.values():
            letters = options_of(sample, "letter")
            row = sample.model_dump(include={"aspect", "group", "question", "options", "answer"})
            lettered = {"letter_question": letters[0].question, "letter": letters[sample.answer].answer}
            rows.append({"id": sample.id, "video": str(path.parent / sample.video), **row, **lettered})
        self.dataset = self.dataset_no_image = DatasetDict(test=Dataset.from_list(rows))


def video_of(row: dict[str, Any]) -> list[str]:
    """The video of a question."""
    return [row["video"]]


def score_choices(row: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """The score of a question from the losses of its options. As in `Outcome`, a tie is wrong."""
    losses = [loss for loss, _ in results]
    return _score(
        row, all(losses[row["answer"]] < loss for i, loss in enumerate(losses) if i != row["answer"])
    )


def score_letters(row: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of a question from a written answer, which must begin with the letter of the right option."""
    return _score(row, re.split(r"\W", results[0].strip(), maxsplit=1)[0] == row["letter"])


def _score(row: dict[str, Any], is_right: bool) -> dict[str, Any]:
    scored = {"aspect": row["aspect"], "group": row["group"], "is_right": is_right}
    return dict.fromkeys(("temporal_accuracy", "static_accuracy", "text_score"), scored)


def temporal_accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """The share of right answers to questions that need more than one frame."""
    return _share(row["is_right"] for row in rows if row["aspect"] not in STATIC_ASPECTS)


def static_accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """The share of right answers to questions that a single frame can answer."""
    return _share(row["is_right"] for row in rows if row["aspect"] in STATIC_ASPECTS)


def text_score(rows: Sequence[dict[str, Any]]) -> float:
    """The share of groups of conflicting videos whose questions are all answered right."""
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["is_right"])
    return _share(all(rights) for name, rights in groups.items() if name)


def _share(rights: Iterable[bool]) -> float:
    """The mean; NaN without values."""
    values = [float(is_right) for is_right in rights]
    return float(np.mean(values)) if values else math.nan
