"""The ordered list of phases. Each starts from the checkpoint of the one before and writes its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tempo.config import DpoPhase, ModelConfig, PhaseConfig, SftPhase
from tempo.core.files import replace_directory, write_json
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.ranks import num_processes, pick_device, process_rank, shards_weights, wait_for_all
from tempo.engine.types import Context
from tempo.model.chat import VideoLM
from tempo.model.features import FeatureStore
from tempo.model.loading import load_video_lm, pick_dtype
from tempo.model.support import self_check
from tempo.training.distributed import remove_state
from tempo.training.examples import Example, check_lengths, dpo_examples, sft_examples
from tempo.training.instructions import usable_questions
from tempo.training.policy import ReferenceStore, caches_reference, model_key
from tempo.training.trainer import PhaseContext, train_phase
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Session:
    """The training of a run: its context and callbacks, which do nothing by default."""

    context: Context
    #: Called with the phase's directory, step, number of steps and metrics after each step.
    progress: Callable[[str, int, int, dict[str, float]], None] = lambda place, step, num_steps, row: None
    #: Called with each message and warning.
    log: Callable[[str], None] = lambda text: None
    #: Lengths of prefixes (`check_lengths`), measured once for all phases.
    prefix_lengths: dict[tuple[str, str], int] = field(default_factory=dict)


def run_training(session: Session) -> None:
    """Trains the phases that are not done, then those of every baseline; writes `model/` last.

    A DPO phase without pairs is skipped with a message. Raises ValueError if no DPO phase has a pair.
    """
    context = session.context
    training = context.config.training
    _check_examples(context, session.log)
    final = run_phases(session, training.phases, context.directory / "train")
    by_name = {phase.name: phase for phase in training.phases}
    for name, selected in training.baselines.items():
        phases = [by_name[phase] for phase in selected]
        run_phases(session, phases, context.directory / "baselines" / name)
    if process_rank() == 0 and isinstance(final, Path):
        with replace_directory(context.directory / "model") as directory:
            shutil.copytree(final, directory, dirs_exist_ok=True)


def run_phases(
    session: Session, phases: Sequence[PhaseConfig], directory: Path, *, start: Path | str = ""
) -> Path | str:
    """Trains the phases that are not done, from the model `start` (default: the run's).

    Returns the path of the last phase's checkpoint, or `start` if no phase had examples.
    """
    context = session.context
    start = start or context.config.model.path
    pairs = RunStore(context.directory).read("pairs", Pair)
    for number, phase in enumerate(phases, 1):
        if isinstance(phase, DpoPhase) and not dpo_examples(pairs, phase):
            continue
        target = directory / f"{number:02d}-{phase.name}"
        if not (target / "done.json").exists():
            _run_phase(session, phase, start, target)
        start = target / "model"
    return start


def phase_directories(context: Context) -> dict[str, list[Path]]:
    """Model name to the directories of its finished phases: `tempo` for the method, then the baselines."""
    training = context.config.training
    names = {"tempo": [phase.name for phase in training.phases], **training.baselines}
    found = {}
    for name, phases in names.items():
        place = context.directory / ("train" if name == "tempo" else f"baselines/{name}")
        paths = [place / f"{number:02d}-{phase}" for number, phase in enumerate(phases, 1)]
        found[name] = [path for path in paths if (path / "done.json").exists()]
    return found


def save_checkpoint(lm: VideoLM, path: Path) -> None:
    """Writes a plain Hugging Face checkpoint with its processor; the directory appears in one step."""
    with replace_directory(path) as directory:
        lm.model.save_pretrained(directory)
        lm.processor.save_pretrained(directory)


def _check_examples(context: Context, log: Callable[[str], None]) -> None:
    """Logs which phases have nothing to train on and how many questions are left out.

    Raises ValueError if no DPO phase has a pair, or SFT phases have no question.
    """
    phases = context.config.training.phases
    if not phases:
        log("training: there are no [[training.phases]], so nothing is trained. `tempo init` writes some")
    if any(isinstance(phase, SftPhase) for phase in phases):
        _, num_left_out = usable_questions(context)
        if num_left_out:
            log(f"training: instructions left out because their videos were skipped: {num_left_out}")
    pairs = RunStore(context.directory).read("pairs", Pair)
    dpo_phases = [phase for phase in phases if isinstance(phase, DpoPhase)]
    empty = [phase for phase in dpo_phases if not dpo_examples(pairs, phase)]
    for phase in empty:
        levels = list(phase.levels) or "any"
        log(f"training: phase {phase.name!r} is skipped, because no pair has levels {levels}")
    if dpo_phases and len(empty) == len(dpo_phases):
        raise ValueError(
            "no pair to train on. `tempo status` shows why videos were skipped; add videos, or loosen the "
            "rules in [clips] and [pairs]"
        )


def _run_phase(session: Session, phase: PhaseConfig, start: Path | str, target: Path) -> None:
    context = session.context
    config, place = context.config, str(target.relative_to(context.directory))
    frames = FrameStore(context.directory / "frames")
    examples = _examples(context, phase)
    reference = _reference(session, phase, start, examples, frames)
    lm = _load(session, start, examples, frames)
    features = None
    if phase.cache_features:
        features = FeatureStore(context.directory / "train" / "features", lm.model)
    phase_context = PhaseContext(
        frames=frames,
        seed=config.run.seed,
        max_tokens=config.training.max_tokens,
        directory=target,
        checkpoint_minutes=config.training.checkpoint_minutes,
        reference=reference,
        features=features,
        load_full=_full_loader(config.model, start),
        progress=lambda step, num_steps, row: session.progress(place, step, num_steps, row),
        warn=session.log,
    )
    trained = train_phase(lm, phase, examples, phase_context)
    if process_rank() == 0:
        save_checkpoint(trained, target / "model")
        done = {"phase": json.loads(phase.model_dump_json()), "num_examples": len(examples)}
        write_json(target / "done.json", done)
        remove_state(target / "state")
    wait_for_all()


def _examples(context: Context, phase: PhaseConfig) -> list[Example]:
    if isinstance(phase, DpoPhase):
        return dpo_examples(RunStore(context.directory).read("pairs", Pair), phase)
    return sft_examples(usable_questions(context)[0], phase)


def _load(session: Session, path: Path | str, examples: Sequence[Example], frames: FrameStore) -> VideoLM:
    """A checkpoint that can be trained on all examples; raises ValueError if one is too long."""
    config = session.context.config
    lm = load_video_lm(config.model.model_copy(update={"path": str(path)}))
    limit = config.training.max_tokens
    check_lengths(examples, lm, frames, max_tokens=limit, prefix_lengths=session.prefix_lengths)
    self_check(lm.model, examples[0].load(lm, frames))
    return lm


def _reference(
    session: Session,
    phase: PhaseConfig,
    start: Path | str,
    examples: Sequence[Example],
    frames: FrameStore,
) -> ReferenceStore | None:
    """The reference's log-probabilities of all examples on disk; None if the phase computes them itself."""
    if isinstance(phase, SftPhase) or not caches_reference(phase):
        return None
    context = session.context
    path = context.config.model.path if phase.reference == "fixed" else start
    lm = _load(session, path, examples, frames)
    directory = context.directory / "train" / "reference"
    key = model_key(lm, path)
    store = ReferenceStore(directory, key=key, rank=process_rank())
    store.fill(lm, (example.load(lm, frames) for example in examples[process_rank() :: num_processes()]))
    wait_for_all()
    return ReferenceStore(directory, key=key)


def _full_loader(model: ModelConfig, path: Path | str) -> Callable[[], VideoLM] | None:
    """Loads the full weights into main memory; None if the weights are neither quantized nor sharded."""
    if model.quantization == "none" and not shards_weights():
        return None
    dtype = str(pick_dtype(model.dtype, pick_device(model.device))).removeprefix("torch.")
    plain = {"path": str(path), "quantization": "none", "device": "cpu", "dtype": dtype}
    return lambda: load_video_lm(model.model_copy(update=plain))
