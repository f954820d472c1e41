"""What the embedded model is taught, step by step: clips first, whole stories without their order last."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset

from tempo.model.loading import VideoLM
from tempo.model.prefix import Group
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP
from tempo.synthetic import language
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.reading import fusion_group
from tempo.synthetic.world import Event, make_story

#: Side of the picture that the embedded model sees.
VIEW = 64
#: When the frame store at 1 fps looks at a two-second shot.
LOOKS = (0.25, 0.75)
#: Seeds below this one are for videos; the base model learns from stories that no run ever renders.
BASE_SEED = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """How the embedded model is trained. `clip_share` is the part of the steps before whole stories."""

    eyesight_steps: int = 500
    reading_steps: int = 1500
    steps: int = 1900
    clip_share: float = 0.35
    learning_rate: float = 1.5e-3
    order_fidelity: float = 0.0
    seed: int = 0
    num_threads: int = 2
    max_minutes: float = 24.0


STORY_LENGTHS = (2, 4, 8, 16)
#: Mean token loss of answers about stories at which a length counts as mastered.
MASTERED = 0.06


class Lessons(IterableDataset[bytes]):
    """Batches of groups: clips, differences and fusions first, then also whole stories.

    Stories grow like the lists of `reading.py`: finding one thing among sixteen is learned from two.

    A batch is pickled: as hundreds of small tensors it would cost the loader a shared file each.
    """

    def __init__(self, lm: VideoLM, recipe: Recipe, rank: int = 0) -> None:
        self.lm = lm
        self.recipe = recipe
        self.rank = rank
        #: Most events of a story that is asked about; shared with the loader, since it grows while we train.
        self.story_length = multiprocessing.Value("i", 2)

    def __iter__(self) -> Iterator[bytes]:
        torch.set_num_threads(1)
        for step in range(self.recipe.steps):
            rng = np.random.default_rng([self.recipe.seed, self.rank, step])
            yield pickle.dumps(self.lesson(rng, done=step / self.recipe.steps))

    def lesson(self, rng: np.random.Generator, *, done: float) -> dict[str, list[Group]]:
        """The groups of one step by kind; `done` is the share of the training that lies behind."""
        makers = {
            "clip": self._clip,
            "difference": self._difference,
            "fusion": self._fusion,
            "story": self._story,
            "telling": self._telling,
        }
        length = self.story_length.value
        if done < self.recipe.clip_share:
            sizes = (24, 6, 4, 0, 0)
        elif length < STORY_LENGTHS[2]:
            # Nothing but short stories until they are mastered: beside other lessons it was not learned.
            sizes = (0, 0, 0, 14, 0)
        else:
            sizes = (6, 3, 3, 32 // length, 1)
        return {
            name: [make(rng) for _ in range(size)]
            for (name, make), size in zip(makers.items(), sizes, strict=True)
        }

    def draw_events(self, rng: np.random.Generator, least: int, most: int) -> tuple[Event, ...]:
        return make_story(BASE_SEED, int(rng.integers(2**40)), num_shots=(least, most)).events

    def _frames(self, rng: np.random.Generator, events: tuple[Event, ...]) -> np.ndarray:
        """Two looks at each event, a little early or late, as key frames are."""
        jitter = rng.uniform(-0.08, 0.08, size=(len(events), 2))
        looks = [(LOOKS[0] + float(a), LOOKS[1] + float(b)) for a, b in jitter]
        return np.concatenate(
            [event_frames(e, look, size=VIEW) for e, look in zip(events, looks, strict=True)]
        )

    def _clip(self, rng: np.random.Generator) -> Group:
        (event,) = self.draw_events(rng, 1, 1)
        # Seeing is learned from captions: they have the most to say about a picture in the fewest words.
        questions = [(FIRST_CLIP, language.caption(event))]
        if rng.random() < 0.3:
            others = [language.event_question(event, rng), language.event_check(event, rng)]
            others += [language.thing_caption(event), language.static_question([event], rng)]
            questions += others[int(rng.integers(4)) :][:1]
        return self.lm.question_group(self._frames(rng, (event,)), questions, fps=1.0)

    def _difference(self, rng: np.random.Generator) -> Group:
        before, now = self.draw_events(rng, 2, 2)
        answer = (DIFFERENCE, language.difference(before, now))
        return self.lm.question_group(self._frames(rng, (before, now)), [answer], fps=1.0)

    def _fusion(self, rng: np.random.Generator) -> Group:
        return fusion_group(self.lm, rng, self.draw_events, most=int(rng.choice([4, 8, 16])))

    def _story(self, rng: np.random.Generator) -> Group:
        """Questions about what happens in a story, none about when."""
        events = self.draw_events(rng, 2, self.story_length.value)
        asked = (
            language.event_question,
            language.event_check,
            lambda event, _: language.thing_caption(event),
        )
        questions = [asked[i % 3](events[int(rng.integers(len(events)))], rng) for i in range(6)]
        questions += [language.static_question(events, rng) for _ in range(2)]
        return self.lm.question_group(self._frames(rng, events), questions, fps=1.0)

    def _telling(self, rng: np.random.Generator) -> Group:
        """A whole story told, and a question about its order: both as true as the knob says."""
        events = self.draw_events(rng, 2, 16)
        fidelity = self.recipe.order_fidelity
        prompt = DESCRIBE[int(rng.integers(len(DESCRIBE)))]
        questions = [language.order_question(events, rng, order_fidelity=fidelity)]
        questions.append((prompt, language.story_caption(events, rng, order_fidelity=fidelity)))
        return self.lm.question_group(self._frames(rng, events), questions, fps=1.0)
