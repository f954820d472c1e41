"""A model and tasks for lmms-eval 0.7.3: `--model tempo`, and `--include_path` with the folder `lmms_tasks`.

The model loads checkpoints and reads videos as tempo does, and computes likelihoods, which lmms-eval's
classes for Qwen do not. The tasks contain the questions of the file in the environment variable
TEMPO_BENCHMARK.
"""

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.models.registry_v2 import ModelManifest

from tempo.config import FramesConfig, SamplingConfig
from tempo.evaluation.evaluate import SEPARATE_ASPECTS, STATIC_ASPECTS, options_of, read_samples, shown
from tempo.model.answers import Request
from tempo.model.chat import Continuation, Prefix, log_probs
from tempo.model.generate import generate
from tempo.model.loading import load_model
from tempo.video.frames import sample_video


def manifest() -> ModelManifest:
    """The entry point of lmms-eval."""
    return ModelManifest(model_id="tempo", simple_class_path=f"{__name__}.Tempo")


class Tempo(lmms):  # type: ignore[misc]
    """A checkpoint in one process. A question has at most one video file; `frames` are keys of [frames]."""

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

        The tasks of lmms-eval choose the lowest value.
        """
        losses = list[GenerationResult]()
        # The options of a question are consecutive, and share one encoding of the video.
        for _, group in groupby((request.args for request in requests), key=lambda row: row[3:]):
            rows = [*group]
            answers = [Continuation(option.strip(), question) for question, option, *_ in rows]
            found = log_probs(self._lm, Prefix(prompt="", **self._read(*rows[0][2:])), answers)
            # Anything else is converted to text.
            losses += [GenerationResult((-float(logp), False)) for logp in found]
        return losses

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request up to a stop string; greedy unless the task sets a temperature."""
        answers = []
        for prompt, options, *place in (request.args for request in requests):
            sampling = SamplingConfig(temperature=options.get("temperature") or 0.0, repetition_penalty=1.0)
            request = Request(prompt, seed=0, **self._read(*place))
            count = options.get("max_new_tokens", 128)
            (answer,) = generate(self._lm, [request], sampling=sampling, max_new_tokens=count)
            stops = options.get("until") or []
            stop = "|".join(map(re.escape, [stops] if isinstance(stops, str) else stops))
            answers.append(re.split(stop or "(?!)", answer.text, maxsplit=1)[0])
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("the model `tempo` does not support multi-round tasks")

    def _read(self, doc_to_visual: Any, doc_id: int, task: str, split: str) -> dict[str, Any]:
        """Frames, rate and times of the video of a question, as arguments."""
        visuals = list(doc_to_visual(self.task_dict[task][split][doc_id]) or [])
        if not visuals:
            return {"frames": None}
        if len(visuals) > 1 or not isinstance(visuals[0], str):
            raise ValueError(f"the model `tempo` takes one video file per question, got {visuals}")
        return shown(sample_video(visuals[0], self._frames))


class Questions(ConfigurableTask):  # type: ignore[misc]
    """A task about the questions of the file TEMPO_BENCHMARK, read as `tempo run` reads it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: Any = None) -> None:
        """Reads the file; raises ValueError if it is not set or has bad rows (see `read_samples`)."""
        path = Path(os.environ.get("TEMPO_BENCHMARK", ""))
        if not path.is_file():
            raise ValueError(f"TEMPO_BENCHMARK={str(path)!r} is not a file. Set it to a benchmark in JSONL")
        rows = []
        for sample in read_samples(path).rows.values():
            letters = options_of(sample, "letter")
            lettered = {"letter_question": letters[0].question, "letter": letters[sample.answer].answer}
            rows.append({**sample.model_dump(), "video": str(path.parent / sample.video), **lettered})
        self.dataset = self.dataset_no_image = DatasetDict(test=Dataset.from_list(rows))


def video_of(row: dict[str, Any]) -> list[str]:
    return [row["video"]]


def score_choices(row: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The score of a question from the losses of its options. As in `Outcome`, a tie is wrong."""
    losses = [loss for loss, _ in results]
    right = losses.pop(row["answer"])
    return _score(row, all(right < loss for loss in losses))


def score_letters(row: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The score of a question from a text, which must begin with the letter of the right option."""
    return _score(row, re.split(r"\W", results[0].strip(), maxsplit=1)[0] == row["letter"])


def _score(row: dict[str, Any], is_right: bool) -> dict[str, float]:
    if row["aspect"] in STATIC_ASPECTS:
        return {"static_accuracy": float(is_right)}
    return {} if row["aspect"] in SEPARATE_ASPECTS else {"temporal_accuracy": float(is_right)}
