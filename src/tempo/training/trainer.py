"""One phase: lessons in their order, one optimizer step per batch, and a state to go on from after a stop.

A thin loop over accelerate (`learner.py`): what differs from a stock trainer is the step itself (`step.py`),
which shares a prefix among answers and a vision pass between policy and reference.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tempo.config import PhaseConfig
from tempo.core.seeds import derive_seed
from tempo.core.store import write_lines
from tempo.engine.ranks import wait_for_all
from tempo.model.chat import VideoLM
from tempo.model.features import FeatureStore
from tempo.training.adapters import Policy
from tempo.training.advice import advise
from tempo.training.curriculum import Curriculum
from tempo.training.groups import Lesson
from tempo.training.learner import Learner
from tempo.training.loader import Batch, load_batches
from tempo.training.losses import Metrics
from tempo.training.reference import ReferenceStore
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Surroundings:
    """What a phase is given beside its lessons; `reference` and `features` where they lie on disk."""

    frames: FrameStore
    seed: int
    max_tokens: int
    #: Where metrics, and the state of a phase that was stopped half-way, are kept.
    directory: Path
    checkpoint_minutes: float = 10.0
    reference: ReferenceStore | None = None
    features: FeatureStore | None = None
    #: Loads the weights that quantized or sharded ones were made from.
    load_whole: Callable[[], VideoLM] | None = None
    #: Called with step, number of steps and the step's metrics.
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, steps, row: None
    #: Called with every warning, once.
    tell: Callable[[str], None] = lambda text: None


def train_phase(
    lm: VideoLM, phase: PhaseConfig, lessons: Sequence[Lesson], surroundings: Surroundings
) -> VideoLM:
    """The model after the phase, LoRA merged; a row of metrics per step goes to `metrics.jsonl`.

    A phase that was stopped half-way goes on where its state was last kept, with the same numbers as without
    the stop. Raises ValueError if the loss or its gradient is not finite; the state before stays.
    """
    torch.manual_seed(derive_seed(surroundings.seed, phase.name, "weights"))
    curriculum = Curriculum(lessons, phase, seed=surroundings.seed)
    learner = Learner(Policy(lm.model, phase), phase, curriculum.num_batches, surroundings.features)
    run = _Run(learner, phase, curriculum, surroundings)
    run.go_on()
    for batch in run.batches(lm):
        run.learn(batch)
    load = surroundings.load_whole
    model = learner.merged() if load is None else learner.merged_into(lambda: load().model)
    return VideoLM(model, lm.processor)


class _Run:
    """A phase on its way: its place in the curriculum, its metrics so far, its state on disk."""

    def __init__(
        self, learner: Learner, phase: PhaseConfig, curriculum: Curriculum, surroundings: Surroundings
    ) -> None:
        self._learner = learner
        self._phase = phase
        self._curriculum = curriculum
        self._around = surroundings
        self._state = surroundings.directory / "state"
        self._log = surroundings.directory / "metrics.jsonl"
        self._rows: list[dict[str, float]] = []
        self._told: set[str] = set()
        #: The curriculum as it was before the last batch was drawn, and what it is to be told after that.
        self._place = curriculum.state_dict()
        self._feedback: Metrics | None = None
        self._has_drawn = False
        self._saved_at = time.perf_counter()

    def go_on(self) -> None:
        """Puts back the state of a phase that was stopped half-way; otherwise begins with an empty log."""
        if place := self._learner.restore(self._state):
            self._curriculum.load_state(place["curriculum"])
            self._feedback = Metrics({name: tuple(entry) for name, entry in place["feedback"].items()})
            lines = self._log.read_text(encoding="utf-8").splitlines()
            self._rows = [json.loads(line) for line in lines[: place["step"]]]
            assert len(self._rows) == place["step"], f"{self._log} is shorter than the state"
        # No process rewrites the log while another still reads it.
        wait_for_all()
        if place:
            self._told = set(advise(self._rows, self._phase))
        self._around.directory.mkdir(parents=True, exist_ok=True)
        if self._learner.is_main:
            write_lines(self._log, (json.dumps(row) for row in self._rows))

    def batches(self, lm: VideoLM) -> Iterator[Batch]:
        """The batches that are left, the next one made while this one is learned from."""
        return load_batches(
            self._next_lessons,
            lambda lesson: lesson.group(lm, self._around.frames),
            rank=self._learner.rank,
            num_processes=self._learner.num_processes,
        )

    def _next_lessons(self) -> list[Lesson]:
        # A batch is drawn while the one before it is learned from, so it knows of those before that one. What
        # the state on disk was told last belongs after the first draw, which was made before the stop.
        if self._has_drawn and self._feedback is not None:
            self._curriculum.feedback(self._feedback)
            self._feedback = None
        self._has_drawn = True
        self._place = self._curriculum.state_dict()
        return self._curriculum.next_batch()

    def learn(self, batch: Batch) -> None:
        """One optimizer step, its row of metrics, and now and then the state."""
        start = time.perf_counter()
        step = len(self._rows) + 1
        torch.manual_seed(derive_seed(self._around.seed, self._phase.name, "step", step))
        row, metrics = self._learner.learn(batch, self._around.reference, max_tokens=self._around.max_tokens)
        row |= {"step": step, "seconds": time.perf_counter() - start + batch.waiting_seconds}
        self._note({name: float(f"{value:.6g}") for name, value in row.items()})
        self._feedback = metrics
        is_due = time.perf_counter() - self._saved_at >= 60 * self._around.checkpoint_minutes
        if self._learner.agree(is_due):
            self._save(step)

    def _note(self, row: dict[str, float]) -> None:
        self._rows.append(row)
        if self._learner.is_main:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        self._around.progress(len(self._rows), self._curriculum.num_batches, row)
        for name, text in advise(self._rows, self._phase).items():
            if name not in self._told:
                self._told.add(name)
                self._around.tell(text)

    def _save(self, step: int) -> None:
        assert self._feedback is not None
        place = {"step": step, "curriculum": self._place, "feedback": self._feedback.sums}
        self._learner.save(self._state, place)
        self._saved_at = time.perf_counter()
