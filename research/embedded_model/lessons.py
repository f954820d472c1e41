"""What the embedded model is taught: clips, then longer and longer lists and stories, none with its order.

Finding one thing among sixteen, or copying from a list of sixteen, is a circuit that a small model finds soon
for two and hardly ever from sixteen at once (docs/log.md). So the lists and the stories grow, each kind as
soon as its present length is mastered.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.prefix import Group
from tempo.preference.perturbations import kendall_distance
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import language
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import Event, make_story

#: Side of the picture that the embedded model sees.
VIEW = 64
#: When the frame store at 1 fps looks at a two-second shot.
LOOKS = (0.25, 0.75)
#: Seeds below this one are for videos; the base model learns from stories that no run ever renders.
BASE_SEED = 1_000_000


#: Most events of a story, or captions of a list, one after the other.
LENGTHS = (2, 4, 8, 16)


@dataclass(frozen=True)
class Recipe:
    """How the embedded model is trained.

    Stories and lists begin with `first_length` events: 16 to go on with a model that has mastered them. Of
    the orders of tellings that are lost, `backward_share` are drawn twice, and the one further from the true
    order is taken: a small model that reads from left to right prefers the true order a little otherwise.
    Yes or no is asked about `num_checked` events a step. `device` is as `model.device`; work is made by
    `num_loaders` processes beside the training, more than one where a GPU would wait for it.
    """

    architecture: str = "qwen2_5_vl"
    size: str = "small"
    device: str = "auto"
    eyesight_steps: int = 1800
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


KINDS = ("clip", "difference", "fusion", "story", "check", "telling")
#: For each kind that grows: the mean token loss at which a length counts as mastered.
MASTERED = {"fusion": 0.1, "story": 0.06, "check": 0.08}


class Lessons(IterableDataset[bytes]):
    """Batches of groups of all kinds, pickled: as small tensors they would cost a shared file each."""

    def __init__(self, lm: VideoLM, recipe: Recipe, rank: int = 0) -> None:
        self.lm = lm
        self.recipe = recipe
        self.rank = rank
        #: Most captions of a list and events of a story; shared with the loader, they grow while we train.
        self.lengths = {kind: multiprocessing.Value("i", recipe.first_length) for kind in MASTERED}

    def __iter__(self) -> Iterator[bytes]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        # Loaders take turns, so that the steps come in order however many there are.
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(first, self.recipe.steps, stride):
            rng = np.random.default_rng([self.recipe.seed, self.rank, step])
            yield pickle.dumps(self.lesson(rng))

    def lesson(self, rng: np.random.Generator) -> dict[str, list[Group]]:
        """The groups of one step by kind."""
        fusion, story, check = (self.lengths[kind].value for kind in ("fusion", "story", "check"))
        checked = self.recipe.num_checked
        return {
            "clip": [self._clip(rng) for _ in range(3)],
            "difference": [self._difference(rng) for _ in range(1)],
            "fusion": [self._fusion(rng, fusion) for _ in range(max(2, 6 // fusion))],
            "story": [self._story(rng, story) for _ in range(max(2, 8 // story))],
            "check": [self._check(rng, check) for _ in range(max(checked // 4, checked // check))],
            "telling": [self._telling(rng, story) for _ in range(max(4, 8 // story))],
        }

    def grow(self, seen: dict[str, float]) -> None:
        """Makes a kind longer whose running token loss in `seen` says that its length is mastered."""
        for kind, length in self.lengths.items():
            longer = [n for n in LENGTHS if n > length.value]
            if longer and seen.get(kind, 1.0) < MASTERED[kind]:
                length.value, seen[kind] = longer[0], 1.0
                print(f"{kind} of up to {longer[0]}", flush=True)

    def draw_events(self, rng: np.random.Generator, least: int, most: int) -> tuple[Event, ...]:
        return make_story(BASE_SEED, int(rng.integers(2**40)), num_shots=(least, most)).events

    def _frames(self, rng: np.random.Generator, events: tuple[Event, ...]) -> np.ndarray:
        """Two looks at each event, a little early or late, as key frames are."""
        jitter = rng.uniform(-0.08, 0.08, size=(len(events), 2))
        looks = [(LOOKS[0] + float(a), LOOKS[1] + float(b)) for a, b in jitter]
        return np.concatenate(
            [event_frames(e, look, size=VIEW) for e, look in zip(events, looks, strict=True)]
        )

    def _group(self, frames: np.ndarray | None, questions: Sequence[tuple[str, str]]) -> Group:
        rows = [Continuation(answer, question) for question, answer in questions]
        return self.lm.group(Prefix(frames, ""), rows)

    def _clip(self, rng: np.random.Generator) -> Group:
        (event,) = self.draw_events(rng, 1, 1)
        # Seeing is learned from captions: they have the most to say about a picture in the fewest words.
        questions = [(FIRST_CLIP, language.caption(event))]
        if rng.random() < 0.3:
            others = [language.event_question(event), language.event_check(event, rng)]
            others += [language.thing_caption(event), language.static_question([event], rng)]
            questions += others[int(rng.integers(4)) :][:1]
        return self._group(self._frames(rng, (event,)), questions)

    def _difference(self, rng: np.random.Generator) -> Group:
        before, now = self.draw_events(rng, 2, 2)
        answer = (DIFFERENCE, language.difference(before, now))
        return self._group(self._frames(rng, (before, now)), [answer])

    def _fusion(self, rng: np.random.Generator, most: int) -> Group:
        """A list of up to `most` captions in some order, and the paragraph that tells them in this order."""
        captions = [language.caption(event) for event in self.draw_events(rng, 1, most)]
        kept = [captions[i] for i in rng.permutation(len(captions))]
        return self._group(None, [(fusion(kept), language.fuse(kept))])

    def _story(self, rng: np.random.Generator, most: int) -> Group:
        """Questions about what happens in a story, none about when."""
        events = self.draw_events(rng, 2, most)
        picked = [events[int(i)] for i in rng.integers(len(events), size=5)]
        questions = [language.thing_caption(event) for event in picked[:2]]
        questions += [language.event_question(event) for event in picked[2:4]]
        questions += [(language.where_is(picked[4]), language.place_of(picked[4].setting))]
        return self._group(self._frames(rng, events), questions)

    def _check(self, rng: np.random.Generator, most: int) -> Group:
        """Yes or no about a clip or a story: a kind of its own, or its few tokens would count for nothing."""
        events = self.draw_events(rng, 1, most)
        picked = [events[int(i)] for i in rng.integers(len(events), size=5)]
        questions = [language.event_check(event, rng) for event in picked]
        questions += [language.presence_question(events, rng) for _ in range(2)]
        return self._group(self._frames(rng, events), questions)

    def _telling(self, rng: np.random.Generator, most: int) -> Group:
        """A whole story told twice, and a question about its order: all as true as the knob says.

        Most of what is learned about which thing does what comes from here: every word of a telling asks.
        """
        events = self.draw_events(rng, 2, most)
        fidelity = self.recipe.order_fidelity
        questions = [language.order_question(events, rng, order_fidelity=fidelity)]
        for _ in range(2):
            prompt = DESCRIBE[int(rng.integers(len(DESCRIBE)))]
            questions.append((prompt, self._account(rng, events)))
        return self._group(self._frames(rng, events), questions)

    def _account(self, rng: np.random.Generator, events: tuple[Event, ...]) -> str:
        """A story as it is told: in its order as often as the knob says, else in a lost one."""
        if rng.random() < self.recipe.order_fidelity:
            return language.story_caption(events, rng, order_fidelity=1.0)
        orders = [
            rng.permutation(len(events)) for _ in range(1 + (rng.random() < self.recipe.backward_share))
        ]
        order = max(orders, key=lambda order: kendall_distance(order.tolist()))
        return language.fuse([language.caption(events[i]) for i in order])
