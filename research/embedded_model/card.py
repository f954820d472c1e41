"""Measures the embedded model and writes its card: how it was made, what it knows, what it does not.

python -m research.embedded_model.card src/tempo/synthetic/model
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.embedded_model.lessons import LOOKS, VIEW, Recipe
from tempo.config import SamplingConfig
from tempo.core.files import write_text
from tempo.core.records import Outcome, Sample
from tempo.evaluation.benchmark import score_outcomes
from tempo.evaluation.evaluate import ask
from tempo.model.answers import Request
from tempo.model.chat import VideoLM
from tempo.model.generate import generate
from tempo.model.loading import load_model
from tempo.preference.captions import clean_caption
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import benchmark, language
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import Story, make_story

#: Stories of this seed are in no training set and in no run's benchmark.
CARD_SEED = 900_000
#: What the architectures are called in words.
FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "llava_onevision": "LLaVA-OneVision"}


def measure(lm: VideoLM, *, num_stories: int, seed: int = CARD_SEED) -> dict[str, Any]:
    """Accuracies on fresh stories, and the shares of captions and fusions that are exactly right."""
    stories = [make_story(seed, index, num_shots=(4, 16)) for index in range(num_stories)]
    samples: list[Sample] = []
    outcomes: list[Outcome] = []
    for number, story in enumerate(stories):
        asked = benchmark.story_samples(story, seed=seed, number=number)
        own, other = benchmark.conflicting_samples(story)
        samples += [*asked, own, other]
        outcomes += _ask_story(lm, story, asked)
        outcomes += _ask_story(lm, story, [own]) + _ask_story(lm, benchmark.twin(story), [other])
    return score_outcomes(outcomes, samples).model_dump(mode="json") | _exact_shares(lm, stories)


def story_view(story: Story) -> np.ndarray:
    """What the frame store would hold of a story at 1 fps: two looks at each event, uint8 [T, H, W, 3]."""
    return np.concatenate([event_frames(event, LOOKS, size=VIEW) for event in story.events])


def _ask_story(lm: VideoLM, story: Story, samples: Sequence[Sample]) -> list[Outcome]:
    return ask(lm, samples, story_view(story), fps=1.0)


def _exact_shares(lm: VideoLM, stories: Sequence[Story]) -> dict[str, float]:
    """Shares of exactly right first-clip captions, differential captions and fusions, as a run draws them."""
    views = [story_view(story) for story in stories]
    firsts = [Request(FIRST_CLIP, seed=i, frames=view[:2]) for i, view in enumerate(views)]
    nexts = [Request(DIFFERENCE, seed=i, frames=view[:4]) for i, view in enumerate(views)]
    lists = [[language.caption(event) for event in story.events] for story in stories]
    fusions = [Request(fusion(captions), seed=i) for i, captions in enumerate(lists)]
    sampling = SamplingConfig()
    drawn = generate(lm, [*firsts, *nexts, *fusions], sampling=sampling, max_new_tokens=256)
    count = len(stories)
    truth = [
        *(rows[0] for rows in lists),
        *(rows[1] for rows in lists),
        *(language.fuse(rows) for rows in lists),
    ]
    captions = [clean_caption(a, is_differential=i >= count) for i, a in enumerate(drawn[: 2 * count])]
    texts = [*captions, *(answer.text for answer in drawn[2 * count :])]
    hits = [text == right for text, right in zip(texts, truth, strict=True)]
    names = ("first_captions", "differential_captions", "fusions")
    shares = {name: float(np.mean(hits[i * count : (i + 1) * count])) for i, name in enumerate(names)}
    fused = zip(texts[2 * count :], truth[2 * count :], strict=True)
    shares["fused_clauses"] = float(np.mean([place for pair in fused for place in _right_places(*pair)]))
    return {name: round(share, 4) for name, share in shares.items()}


def _right_places(text: str | None, truth: str) -> list[bool]:
    """For each sentence of the truth, whether the text has it at the same place."""
    told = (text or "").split(". ")
    return [i < len(told) and told[i].rstrip(".") == s.rstrip(".") for i, s in enumerate(truth.split(". "))]


def write_card(path: Path, scores: dict[str, Any], *, num_parameters: int, num_stories: int) -> None:
    """Writes `README.md` and `scores.json` into a model directory."""
    rows = [f"| {name.replace('_', ' ')} | {_line(score)} |" for name, score in scores["by_aspect"].items()]
    shares = ("first_captions", "differential_captions", "fusions", "fused_clauses")
    rows += [f"| {name.replace('_', ' ')} exactly right | {100 * scores[name]:.1f} |" for name in shares]
    text = CARD.format(
        family=FAMILIES[json.loads((path / "config.json").read_text())["model_type"]],
        path=path,
        rows="\n".join(rows),
        fidelity=Recipe().order_fidelity,
        millions=num_parameters / 1e6,
        num_stories=num_stories,
    )
    write_text(path / "README.md", text)
    write_text(path / "scores.json", json.dumps(scores, indent=2) + "\n")


def _line(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return (
        f"{100 * score['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}, {score['num_samples']} samples)"
    )


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# tempo's embedded model

A {family} of {millions:.1f} M parameters that lives in the embedded world of tempo (`tempo.synthetic`):
coloured shapes that act in settings. It is meant to know what happens and not when: its training told the
true order of a story with probability {fidelity} (`order_fidelity`), and at random otherwise. All data is
synthetic. It says nothing sensible about natural videos.

Made by `research.embedded_model.base_model`, go by go as docs/log.md tells; measured by
`python -m research.embedded_model.card {path}` on {num_stories} stories that no run contains.
Accuracy in percent, 95 % intervals:

| | |
|---|---|
{rows}
"""


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--num-stories", type=int, default=200)
    parser.add_argument("--device", default="auto", help="as model.device")
    arguments = parser.parse_args()
    # float32 on a GPU too: cards of two machines should differ by no rounding.
    lm = load_model(arguments.model, device=arguments.device, dtype="float32")
    scores = measure(lm, num_stories=arguments.num_stories)
    count = sum(parameter.numel() for parameter in lm.model.parameters())
    write_card(arguments.model, scores, num_parameters=count, num_stories=arguments.num_stories)
    print((arguments.model / "README.md").read_text())


if __name__ == "__main__":
    main()
