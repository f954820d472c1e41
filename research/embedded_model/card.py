"""Measures an embedded model and writes its model card: its training data and its accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.embedded_model.examples import Recipe
from research.embedded_model.vision import FRAME_TIMES, event_frames
from tempo.config import SamplingConfig
from tempo.core.files import write_json, write_text
from tempo.core.hashing import derive_seed
from tempo.core.records import Sample
from tempo.core.statistics import share_interval
from tempo.evaluation.evaluate import ask
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.preference.captions import clean_caption
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.preference.verify import agreement
from tempo.synthetic import benchmark, language
from tempo.synthetic.world import Story, make_story

#: Stories of this seed are in no training set and in no benchmark of a run.
CARD_SEED = 900_000
FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "llava_onevision": "LLaVA-OneVision"}
#: Shares of texts that are exactly right, and of sentences of a fusion that are right at their position.
TEXTS = ("first_captions", "differential_captions", "fusions", "fused_clauses")
#: Agreement of descriptions with the true captions; the order is 1 minus the Kendall distance.
DESCRIPTIONS = ("recall", "precision", "order")


def measure(lm: VideoLM, *, num_stories: int, seed: int = CARD_SEED) -> dict[str, Any]:
    """Accuracies on the questions about new stories, the shares of TEXTS, and DESCRIPTIONS, from 0 to 1.

    The aspect `text_order` has no video: a list of captions is given as text, and the same captions in its
    order are compared with those in another order.
    """
    stories = [make_story(seed, index, num_shots=(4, 16)) for index in range(num_stories)]
    asked: dict[str, list[tuple[str, bool]]] = {}
    for number, story in enumerate(stories):
        shown: list[tuple[Story | None, list[Sample]]] = [(None, [_text_order(story)])]
        shown += [(story, benchmark.story_samples(story, seed=seed, number=number))]
        for kind, conflicting in benchmark.conflicting_stories(story, number=number).items():
            own, other = benchmark.conflicting_samples(story, conflicting, kind)
            shown += [(story, [own]), (conflicting, [other])]
        for video, group in shown:
            for sample, outcome in zip(
                group, ask(lm, group, video and story_frames(video), fps=1.0), strict=True
            ):
                asked.setdefault(sample.aspect, []).append((sample.video, outcome.is_right))
    by_aspect, draws = {}, derive_seed(0, "evaluation", "bootstrap")
    for aspect, rows in sorted(asked.items()):
        videos, rights = zip(*rows, strict=True)
        bounds = [round(bound, 4) for bound in share_interval(rights, videos, seed=draws)]
        accuracy = round(float(np.mean(rights)), 4)
        by_aspect[aspect] = {"accuracy": accuracy, "num_samples": len(rows), "interval": bounds}
    return {"by_aspect": by_aspect, **_text_shares(lm, stories)}


def _text_order(story: Story) -> Sample:
    captions = [language.caption(event) for event in story.events]
    options = (language.fuse(captions), language.fuse([*captions[1::2], *captions[::2]]))
    about = {"video": story.id, "aspect": "text_order", "format": "caption_matching"}
    return Sample(id=f"{story.id}/text", question=fusion(captions), options=options, answer=0, **about)


def story_frames(story: Story) -> np.ndarray:
    """The frames of a story as a run samples them at 1 fps: two for each event, uint8 [T, H, W, 3]."""
    return np.concatenate([event_frames(event, FRAME_TIMES) for event in story.events])


def _text_shares(lm: VideoLM, stories: Sequence[Story]) -> dict[str, float]:
    captions = [[language.caption(event) for event in story.events] for story in stories]
    frames, count = [story_frames(story) for story in stories], len(stories)
    requests = [Request(FIRST_CLIP, seed=i, frames=shown[:2]) for i, shown in enumerate(frames)]
    requests += [Request(DIFFERENCE, seed=i, frames=shown[:4]) for i, shown in enumerate(frames)]
    requests += [Request(fusion(listed), seed=i) for i, listed in enumerate(captions)]
    requests += [Request(DESCRIBE[0], seed=i, frames=shown) for i, shown in enumerate(frames)]
    answers = generate(lm, requests, sampling=SamplingConfig(), max_new_tokens=256)
    hits: dict[str, list[float]] = {name: [] for name in (*TEXTS, *DESCRIPTIONS)}
    for i, (first, second, *_) in enumerate(captions):
        caption = clean_caption(answers[i], is_differential=False)
        difference = clean_caption(answers[count + i], is_differential=True)
        fused, truth = answers[2 * count + i].text or "", language.fuse(captions[i])
        found, right = ([part.rstrip(".") for part in text.split(". ")] for text in (fused, truth))
        exact = [[caption == first], [difference == second], [fused == truth]]
        exact += [[found[n : n + 1] == [sentence] for n, sentence in enumerate(right)]]
        for name, values in zip(TEXTS, exact, strict=True):
            hits[name] += values
        recall, precision, distance = agreement(answers[3 * count + i].text or "", captions[i])
        order = 1 - (0.5 if distance is None else distance)
        for name, value in zip(DESCRIPTIONS, (recall, precision, order), strict=True):
            hits[name].append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}


def known_recipe(path: Path) -> dict[str, Any]:
    """The recipe in the `scores.json` of a model, empty if it is not known."""
    file = path / "scores.json"
    return json.loads(file.read_text()).get("recipe", {}) if file.exists() else {}


def write_card(path: Path, scores: dict[str, Any], *, num_parameters: int, num_stories: int) -> None:
    """Writes `README.md` and `scores.json` into the directory of a model."""
    write_json(path / "scores.json", scores)
    rows = []
    for name, score in scores["by_aspect"].items():
        accuracy, low, high = (100 * value for value in (score["accuracy"], *score["interval"]))
        figures = f"{accuracy:.1f} ({low:.1f} to {high:.1f}, {score['num_samples']} samples)"
        rows.append(f"| {name.replace('_', ' ')} | {figures} |")
    rows += [f"| {name.replace('_', ' ')} exactly right | {100 * scores[name]:.1f} |" for name in TEXTS]
    rows += [f"| descriptions, {name} | {100 * scores[name]:.1f} |" for name in DESCRIPTIONS]
    text = CARD.format(
        family=FAMILIES[json.loads((path / "config.json").read_text())["model_type"]],
        path=path,
        rows="\n".join(rows),
        recipe=Recipe(**known_recipe(path)),
        millions=num_parameters / 1e6,
        num_stories=num_stories,
    )
    write_text(path / "README.md", text)


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# tempo's embedded model

A {family} of {millions:.1f} M parameters for the embedded world of tempo (`tempo.synthetic`): videos of
colored shapes that act in settings. Its training data describes the events of a story in their true order
with probability {recipe.order_fidelity} (`order_fidelity`), and otherwise in a random order. Its vision tower
was trained for {recipe.vision_steps} steps (`vision_steps`). All training data is synthetic. The model is not
useful for natural videos.

Trained by `python -m research.embedded_model` or an earlier version of it; see docs/log.md. Measured by
`python -m research.embedded_model --measure {path}` on {num_stories} stories that no run contains.
Accuracy in percent, with 95 % intervals:

| | |
|---|---|
{rows}
"""
