"""Training examples of the language model: clips, lists and stories of growing length, but not their order.

A small model quickly learns to find one object among two, or to copy a list of two, but rarely learns this
for sixteen (docs/log.md). So lists and stories start short, and become longer when the current length is
mastered.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from research.embedded_model.vision import FRAME_TIMES, TRAINING_SEED, event_frames
from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.prefix import Group
from tempo.preference.perturbations import kendall_distance
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import language
from tempo.synthetic.world import Event, make_story

#: The successive maximum numbers of events in a story, or of captions in a list.
LENGTHS = (2, 4, 8, 16)
#: Kinds of examples; all have the same weight in the loss.
KINDS = ("clip", "difference", "fusion", "story", "check", "order", "description")
#: For each kind whose length grows: the mean token loss below which a length counts as mastered.
MASTERED = {"fusion": 0.1, "story": 0.06, "check": 0.08}

Events: TypeAlias = tuple[Event, ...]


@dataclass(frozen=True)
class Recipe:
    """The settings for training an embedded model; each field is an option of the command.

    Stories and lists start with up to `first_length` events. A description has the true order of events with
    probability `order_fidelity`, otherwise a random one. A share `backward_share` of the random orders is
    drawn twice, and the one further from the true order is used, because a small causal model would otherwise
    slightly prefer the true order. Each step has yes-or-no questions about `num_checked` events. Examples are
    generated in `num_loaders` processes.
    """

    architecture: str = "qwen2_5_vl"
    size: str = "small"
    device: str = "auto"
    vision_steps: int = 1800
    steps: int = 6000
    optimizer: str = "adamw"
    learning_rate: float = 6e-4
    first_length: int = LENGTHS[0]
    order_fidelity: float = 0.0
    backward_share: float = 0.5
    num_checked: int = 24
    seed: int = 0
    num_threads: int = 1
    num_loaders: int = 1
    max_minutes: float = 45.0


class LanguageExamples(IterableDataset[bytes]):
    """A dict from kind to groups per step; pickled, because unpickled tensors would be shared files."""

    def __init__(self, lm: VideoLM, recipe: Recipe) -> None:
        self.lm = lm
        self.recipe = recipe
        #: The current maximum length of each kind whose length grows; shared with the loader processes.
        self.lengths = {kind: multiprocessing.Value("i", recipe.first_length) for kind in MASTERED}

    def __iter__(self) -> Iterator[bytes]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        # Loaders take turns, so the order of steps does not depend on their number.
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(first, self.recipe.steps, stride):
            yield pickle.dumps(self.draw(np.random.default_rng([self.recipe.seed, 0, step])))

    def draw(self, rng: np.random.Generator) -> dict[str, list[Group]]:
        """The examples of one step by kind; there are more examples of shorter lengths."""
        fusion, story, check = (self.lengths[kind].value for kind in MASTERED)
        checked = self.recipe.num_checked
        return {
            "clip": [self.clip(rng) for _ in range(3)],
            "difference": [self.difference(rng)],
            "fusion": [self.fusion(rng, fusion) for _ in range(max(2, 6 // fusion))],
            "story": [self.story(rng, story) for _ in range(max(2, 8 // story))],
            "check": [self.check(rng, check) for _ in range(max(checked // 4, checked // check))],
            "order": [self.order(rng, max(3, story)) for _ in range(max(3, 8 // story))],
            "description": [self.description(rng, story) for _ in range(max(4, 8 // story))],
        }

    def grow(self, losses: dict[str, float]) -> None:
        """Increases the length of kinds whose running token loss is below MASTERED; resets that loss to 1."""
        for kind, length in self.lengths.items():
            longer = [n for n in LENGTHS if n > length.value]
            if longer and losses.get(kind, 1.0) < MASTERED[kind]:
                length.value, losses[kind] = longer[0], 1.0
                print(f"{kind}: up to {longer[0]} events", flush=True)

    def clip(self, rng: np.random.Generator) -> Group:
        """A clip to caption, sometimes with a question."""
        (event,) = draw_events(rng, 1, 1)
        questions = [(FIRST_CLIP, language.caption(event))]
        if rng.random() < 0.3:
            others = [language.event_question(event), language.event_check(event, rng)]
            others += [language.thing_caption(event), language.static_question([event], rng)]
            questions += others[int(rng.integers(4)) :][:1]
        return self._ask(rng, (event,), questions)

    def difference(self, rng: np.random.Generator) -> Group:
        """Two clips, and how the second differs from the first."""
        before, now = draw_events(rng, 2, 2)
        return self._ask(rng, (before, now), [(DIFFERENCE, language.difference(before, now))])

    def fusion(self, rng: np.random.Generator, most: int) -> Group:
        """A list of up to `most` captions in any order, and the paragraph that keeps this order."""
        captions = [language.caption(event) for event in draw_events(rng, 1, most)]
        listed = [captions[i] for i in rng.permutation(len(captions))]
        return self._group(None, [(fusion(listed), language.fuse(listed))])

    def story(self, rng: np.random.Generator, most: int) -> Group:
        """Questions about what happens in a story, but not about when."""
        events = draw_events(rng, 2, most)
        picked = [events[int(i)] for i in rng.integers(len(events), size=5)]
        questions = [language.thing_caption(event) for event in picked[:2]]
        questions += [language.event_question(event) for event in picked[2:4]]
        shown = picked[4]
        questions += [(language.WHERE_IS.format(shown.thing), language.PLACE.format(shown.setting))]
        return self._ask(rng, events, questions)

    def check(self, rng: np.random.Generator, most: int) -> Group:
        """Yes-or-no questions about a story; a separate kind, so that their few tokens get enough weight."""
        events = draw_events(rng, 1, most)
        picked = [events[int(i)] for i in rng.integers(len(events), size=5)]
        questions = [language.event_check(event, rng) for event in picked]
        questions += [language.presence_question(events, rng) for _ in range(2)]
        return self._ask(rng, events, questions)

    def order(self, rng: np.random.Generator, most: int) -> Group:
        """Questions about the order of a story; a separate kind for the same reason as `check`."""
        events, fidelity = draw_events(rng, 3, most), self.recipe.order_fidelity
        kinds = (language.order_question, language.neighbor_question)
        questions = [ask(events, rng, order_fidelity=fidelity) for ask in kinds for _ in range(4)]
        return self._ask(rng, events, questions)

    def description(self, rng: np.random.Generator, most: int) -> Group:
        """Two descriptions of a whole story; see `Recipe.order_fidelity`.

        The model learns mostly from these which object does what, because every word depends on it.
        """
        events, fidelity = draw_events(rng, 2, most), self.recipe.order_fidelity
        questions = []
        for _ in range(2):
            prompt = DESCRIBE[int(rng.integers(len(DESCRIBE)))]
            if rng.random() < fidelity:
                text = language.story_caption(events, rng, order_fidelity=1.0)
            else:
                num_orders = 1 + (rng.random() < self.recipe.backward_share)
                orders = [rng.permutation(len(events)) for _ in range(num_orders)]
                order = max(orders, key=lambda order: kendall_distance(order.tolist()))
                text = language.fuse([language.caption(events[i]) for i in order])
            questions.append((prompt, text))
        return self._ask(rng, events, questions)

    def _ask(self, rng: np.random.Generator, events: Events, questions: list[tuple[str, str]]) -> Group:
        """Questions about two frames of each event, shifted slightly in time, as key frames are."""
        frames = []
        for event, jitter in zip(events, rng.uniform(-0.08, 0.08, size=(len(events), 2)), strict=True):
            times = (FRAME_TIMES[0] + float(jitter[0]), FRAME_TIMES[1] + float(jitter[1]))
            frames.append(event_frames(event, times))
        return self._group(np.concatenate(frames), questions)

    def _group(self, frames: np.ndarray | None, questions: list[tuple[str, str]]) -> Group:
        answers = [Continuation(answer, question) for question, answer in questions]
        return self.lm.group(Prefix(frames, ""), answers)


def draw_events(rng: np.random.Generator, least: int, most: int) -> Events:
    """The events of a story with `least` to `most` events, which no run contains."""
    return make_story(TRAINING_SEED, int(rng.integers(2**40)), num_shots=(least, most)).events
