"""Measures an embedded model and writes its model card: how it was made, what it knows, and what not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.embedded_model.examples import Recipe
from research.embedded_model.models import FRAME_SIZE
from research.embedded_model.vision import FRAME_TIMES
from tempo.config import SamplingConfig
from tempo.core.files import write_json, write_text
from tempo.core.records import Outcome, Sample
from tempo.evaluation.benchmark import score_outcomes
from tempo.evaluation.evaluate import ask
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.preference.captions import clean_caption
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import benchmark, language
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import Story, make_story

#: Stories of this seed are in no training set and in no benchmark of a run.
CARD_SEED = 900_000
FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "llava_onevision": "LLaVA-OneVision"}
#: Shares of texts that are exactly right, and of sentences of a fusion that are at their place.
TEXTS = ("first_captions", "differential_captions", "fusions", "fused_clauses")


def measure(lm: VideoLM, *, num_stories: int, seed: int = CARD_SEED) -> dict[str, Any]:
    """Accuracies on the questions about new stories, and the shares of TEXTS, all from 0 to 1."""
    stories = [make_story(seed, index, num_shots=(4, 16)) for index in range(num_stories)]
    samples: list[Sample] = []
    outcomes: list[Outcome] = []
    for number, story in enumerate(stories):
        own, other = benchmark.conflicting_samples(story)
        asked = benchmark.story_samples(story, seed=seed, number=number)
        for video, group in ((story, asked), (story, [own]), (benchmark.twin(story), [other])):
            samples += group
            outcomes += ask(lm, group, story_frames(video), fps=1.0)
    return score_outcomes(outcomes, samples).model_dump(mode="json") | _text_shares(lm, stories)


def story_frames(story: Story) -> np.ndarray:
    """The frames of a story as a run samples them at 1 fps: two for each event, uint8 [T, H, W, 3]."""
    return np.concatenate([event_frames(event, FRAME_TIMES, size=FRAME_SIZE) for event in story.events])


def _text_shares(lm: VideoLM, stories: Sequence[Story]) -> dict[str, float]:
    """The shares of TEXTS, with answers drawn as in a run."""
    captions = [[language.caption(event) for event in story.events] for story in stories]
    frames, count = [story_frames(story) for story in stories], len(stories)
    requests = [Request(FIRST_CLIP, seed=i, frames=shown[:2]) for i, shown in enumerate(frames)]
    requests += [Request(DIFFERENCE, seed=i, frames=shown[:4]) for i, shown in enumerate(frames)]
    requests += [Request(fusion(listed), seed=i) for i, listed in enumerate(captions)]
    answers = generate(lm, requests, sampling=SamplingConfig(), max_new_tokens=256)
    firsts = [clean_caption(answer, is_differential=False) for answer in answers[:count]]
    nexts = [clean_caption(answer, is_differential=True) for answer in answers[count : 2 * count]]
    fused, truth = (
        [answer.text for answer in answers[2 * count :]],
        [language.fuse(rows) for rows in captions],
    )
    shares = (
        [text == rows[0] for text, rows in zip(firsts, captions, strict=True)],
        [text == rows[1] for text, rows in zip(nexts, captions, strict=True)],
        [text == right for text, right in zip(fused, truth, strict=True)],
        [hit for text, right in zip(fused, truth, strict=True) for hit in _sentences_right(text, right)],
    )
    return {name: round(float(np.mean(hits)), 4) for name, hits in zip(TEXTS, shares, strict=True)}


def _sentences_right(text: str | None, truth: str) -> list[bool]:
    """For each sentence of the truth, whether the text has it at the same place."""
    found = [sentence.rstrip(".") for sentence in (text or "").split(". ")]
    right = [sentence.rstrip(".") for sentence in truth.split(". ")]
    return [found[i : i + 1] == [sentence] for i, sentence in enumerate(right)]


def write_card(path: Path, scores: dict[str, Any], *, num_parameters: int, num_stories: int) -> None:
    """Writes `README.md` and `scores.json` into the directory of a model."""
    rows = [
        f"| {name.replace('_', ' ')} | {_accuracy(score)} |" for name, score in scores["by_aspect"].items()
    ]
    rows += [f"| {name.replace('_', ' ')} exactly right | {100 * scores[name]:.1f} |" for name in TEXTS]
    text = CARD.format(
        family=FAMILIES[json.loads((path / "config.json").read_text())["model_type"]],
        path=path,
        rows="\n".join(rows),
        fidelity=Recipe().order_fidelity,
        millions=num_parameters / 1e6,
        num_stories=num_stories,
    )
    write_text(path / "README.md", text)
    write_json(path / "scores.json", scores)


def _accuracy(score: dict[str, Any]) -> str:
    accuracy, low, high = (100 * value for value in (score["accuracy"], *score["interval"]))
    return f"{accuracy:.1f} ({low:.1f} to {high:.1f}, {score['num_samples']} samples)"


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# tempo's embedded model

A {family} of {millions:.1f} M parameters for the embedded world of tempo (`tempo.synthetic`): videos of
colored shapes that act in settings. It is meant to know what happens but not when: its training data told the
events of a story in their true order with probability {fidelity} (`order_fidelity`), and in a random order
otherwise. All training data is synthetic. The model is of no use for natural videos.

Made by `python -m research.embedded_model`; docs/log.md records every step. Measured by
`python -m research.embedded_model --measure {path}` on {num_stories} stories that no run contains.
Accuracy in percent, with 95 % intervals:

| | |
|---|---|
{rows}
"""
