"""The ordered list of phases: each starts from the checkpoint of the one before and leaves its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tempo.config import ModelConfig, PhaseConfig
from tempo.core.records import Pair
from tempo.core.store import RunStore, write_json
from tempo.engine.ranks import num_processes, process_rank, shards_weights, wait_for_all
from tempo.engine.types import Context
from tempo.model.features import FeatureStore
from tempo.model.loading import VideoLM, load_video_lm, pick_device, pick_dtype
from tempo.model.selfcheck import self_check
from tempo.training.checkpoints import forget_state, whole_directory
from tempo.training.groups import Lesson, check_lengths, dpo_lessons, sft_lessons
from tempo.training.instructions import usable_questions
from tempo.training.reference import ReferenceStore, model_key
from tempo.training.trainer import Surroundings, train_phase
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Session:
    """A run's training: what it is given, and who is told how it goes (nobody by default)."""

    context: Context
    #: Called with the phase's directory, step, number of steps and the step's metrics.
    progress: Callable[[str, int, int, dict[str, float]], None] = lambda place, step, steps, row: None
    #: Called with what a person should know.
    tell: Callable[[str], None] = lambda text: None
    #: Video and prompt to tokens: measured once for all phases.
    prefix_lengths: dict[tuple[str, str], int] = field(default_factory=dict)


def run_training(session: Session) -> None:
    """Trains the method and every baseline, each phase that is not done yet; writes `model/` last.

    A DPO phase whose levels have no pair is passed over and said so; without any pair at all there is nothing
    to train on, and ValueError says that.
    """
    context = session.context
    config = context.config
    _check_lessons(context, session.tell)
    final = run_phases(session, config.training.phases, context.directory / "train")
    by_name = {phase.name: phase for phase in config.training.phases}
    for name, wanted in config.training.baselines.items():
        phases = [by_name[phase] for phase in wanted]
        run_phases(session, phases, context.directory / "baselines" / name)
    if process_rank() == 0:
        _copy_model(final, context.directory / "model")


def run_phases(
    session: Session, phases: Sequence[PhaseConfig], directory: Path, *, start: Path | str = ""
) -> Path | str:
    """The path of the last phase's checkpoint, that of `start` (the run's model) where there is no phase."""
    context = session.context
    start = start or context.config.model.path
    pairs = RunStore(context.directory).read("pairs", Pair)
    for number, phase in enumerate(phases, 1):
        if phase.objective == "dpo" and not dpo_lessons(pairs, phase):
            continue
        target = directory / f"{number:02d}-{phase.name}"
        if not (target / "done.json").exists():
            _run_phase(session, phase, start, target)
        start = target / "model"
    return start


def phase_directories(context: Context) -> dict[str, list[Path]]:
    """Model name to the directories of its finished phases: `tempo` for the method, then the baselines."""
    training = context.config.training
    named = {"tempo": ("train", [phase.name for phase in training.phases])}
    named |= {name: (f"baselines/{name}", list(wanted)) for name, wanted in training.baselines.items()}
    return {
        name: [path for path in _numbered(context.directory / place, phases) if (path / "done.json").exists()]
        for name, (place, phases) in named.items()
    }


def _numbered(directory: Path, phases: Sequence[str]) -> list[Path]:
    return [directory / f"{number:02d}-{phase}" for number, phase in enumerate(phases, 1)]


def _check_lessons(context: Context, tell: Callable[[str], None]) -> None:
    """Says that there is no phase, which DPO phases have no pair, and how many questions are left out.

    Raises ValueError if no DPO phase has a pair, or SFT phases have no question.
    """
    if not context.config.training.phases:
        tell("training: no [[training.phases]], nothing was trained; `tempo init` writes the curriculum")
    if any(phase.objective == "sft" for phase in context.config.training.phases):
        found = usable_questions(context)
        if found.num_aside:
            tell(f"training: {found.num_aside} instructions left out, about videos that were set aside")
    pairs = RunStore(context.directory).read("pairs", Pair)
    phases = [phase for phase in context.config.training.phases if phase.objective == "dpo"]
    empty = [phase for phase in phases if not dpo_lessons(pairs, phase)]
    for phase in empty:
        tell(
            f"training: phase {phase.name!r} is passed over, no pair has levels {list(phase.levels) or 'any'}"
        )
    if phases and len(empty) == len(phases):
        raise ValueError(
            "no pair to train on: `tempo status` says where the videos were dropped; "
            "more videos, or looser [clips] and [pairs] rules, would help"
        )


def _run_phase(session: Session, phase: PhaseConfig, start: Path | str, target: Path) -> None:
    context = session.context
    config, place = context.config, str(target.relative_to(context.directory))
    frames = FrameStore(context.directory / "frames")
    lessons = _lessons(context, phase)
    reference = _reference(session, phase, start, lessons, frames)
    lm = _load(session, start, lessons, frames)
    features = None
    if phase.cache_features:
        features = FeatureStore(context.directory / "train" / "features", lm.model)
    surroundings = Surroundings(
        frames=frames,
        seed=config.run.seed,
        max_tokens=config.training.max_tokens,
        directory=target,
        checkpoint_minutes=config.training.checkpoint_minutes,
        reference=reference,
        features=features,
        load_whole=_whole_loader(config.model, start),
        progress=lambda step, steps, row: session.progress(place, step, steps, row),
        tell=session.tell,
    )
    trained = train_phase(lm, phase, lessons, surroundings)
    if process_rank() == 0:
        save_checkpoint(trained, target / "model")
        done = {"phase": json.loads(phase.model_dump_json()), "num_lessons": len(lessons)}
        write_json(target / "done.json", done)
        forget_state(target / "state")
    wait_for_all()


def _load(session: Session, path: Path | str, lessons: Sequence[Lesson], frames: FrameStore) -> VideoLM:
    """A checkpoint that can be trained on all lessons; raises ValueError before any of them is taken."""
    config = session.context.config
    lm = load_video_lm(config.model.model_copy(update={"path": str(path)}))
    limit = config.training.max_tokens
    check_lengths(lessons, lm, frames, max_tokens=limit, prefix_lengths=session.prefix_lengths)
    self_check(lm, lessons[0].group(lm, frames))
    return lm


def _whole_loader(model: ModelConfig, path: Path | str) -> Callable[[], VideoLM] | None:
    """Loads into main memory what quantized or sharded weights were made from; None where neither is so."""
    if model.quantization == "none" and not shards_weights():
        return None
    dtype = str(pick_dtype(model.dtype, pick_device(model.device))).removeprefix("torch.")
    plain = {"path": str(path), "quantization": "none", "device": "cpu", "dtype": dtype}
    return lambda: load_video_lm(model.model_copy(update=plain))


def _reference(
    session: Session,
    phase: PhaseConfig,
    start: Path | str,
    lessons: Sequence[Lesson],
    frames: FrameStore,
) -> ReferenceStore | None:
    """The reference's log-probabilities on disk, where the phase wants them there; else None."""
    if phase.objective == "sft" or not (phase.cache_reference or phase.reference == "fixed"):
        return None
    context = session.context
    path = context.config.model.path if phase.reference == "fixed" else start
    lm = _load(session, path, lessons, frames)
    directory = context.directory / "train" / "reference"
    key = model_key(lm, path)
    store = ReferenceStore(directory, key=key, rank=process_rank())
    store.fill(lm, (lesson.group(lm, frames) for lesson in lessons[process_rank() :: num_processes()]))
    wait_for_all()
    return ReferenceStore(directory, key=key)


def _lessons(context: Context, phase: PhaseConfig) -> list[Lesson]:
    if phase.objective == "dpo":
        return dpo_lessons(RunStore(context.directory).read("pairs", Pair), phase)
    return sft_lessons(usable_questions(context).asked, phase)


def save_checkpoint(lm: VideoLM, path: Path) -> None:
    """Writes a plain Hugging Face checkpoint with its processor; it appears whole or not at all."""
    with whole_directory(path) as directory:
        lm.model.save_pretrained(directory)
        lm.processor.save_pretrained(directory)


def _copy_model(source: Path | str, target: Path) -> None:
    """Puts the final checkpoint where users look for it. Without any phase there is nothing to put."""
    if isinstance(source, str):
        return
    with whole_directory(target) as directory:
        shutil.copytree(source, directory, dirs_exist_ok=True)
