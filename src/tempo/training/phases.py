"""The ordered list of phases. Each starts from the checkpoint of the one before and writes its own."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.utils import gather_object

from tempo.config import DpoPhase, PhaseConfig, SftPhase
from tempo.core.files import replace_directory, write_json
from tempo.core.hashing import derive_seed
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.ranks import num_processes, pick_device, process_rank, shards_weights, wait_for_all
from tempo.engine.types import Context
from tempo.model.chat import VideoLM
from tempo.model.features import FeatureStore
from tempo.model.loading import load_model, pick_dtype
from tempo.training.examples import Example, check_lengths, dpo_examples, sft_examples
from tempo.training.instructions import usable_questions
from tempo.training.metrics import MetricsLog, find_warning
from tempo.training.order import load_batches, plan_batches
from tempo.training.policy import Policy, ReferenceStore, model_key, unfreeze
from tempo.training.trainer import Trainer
from tempo.video.frames import FrameStore


@dataclass(frozen=True)
class Session:
    """The training of a run: its context, and callbacks that do nothing by default."""

    context: Context
    #: Called with the phase's directory, step, number of steps and metrics after each step.
    progress: Callable[[Path, int, int, dict[str, float]], None] = lambda place, step, num_steps, row: None
    #: Called with each message and warning.
    log: Callable[[str], None] = lambda text: None
    #: Numbers of tokens of videos (`check_lengths`), measured once for all phases.
    video_lengths: dict[tuple[str, int], int] = field(default_factory=dict)


def run_training(session: Session) -> None:
    """Trains the phases that are not done, then those of every baseline; writes `model/` last.

    Raises ValueError if no DPO phase has a pair, or SFT phases have no question.
    """
    context, training = session.context, session.context.config.training
    if any(isinstance(phase, SftPhase) for phase in training.phases):
        _, num_left_out = usable_questions(context)
        if num_left_out:
            session.log(f"training: instructions left out because their videos were skipped: {num_left_out}")
    pairs = RunStore(context.directory).read("pairs", Pair)
    dpo_phases = [phase for phase in training.phases if isinstance(phase, DpoPhase)]
    if dpo_phases and not any(dpo_examples(pairs, phase) for phase in dpo_phases):
        raise ValueError(
            "no pair to train on. `tempo status` shows why videos were skipped; add videos, or loosen the "
            "rules in [clips] and [pairs]"
        )
    final = run_phases(session, training.phases, context.directory / "train")
    by_name = {phase.name: phase for phase in training.phases}
    for name, selected in training.baselines.items():
        run_phases(session, [by_name[phase] for phase in selected], context.directory / "baselines" / name)
    if process_rank() == 0 and isinstance(final, Path):
        with replace_directory(context.directory / "model") as directory:
            shutil.copytree(final, directory, dirs_exist_ok=True)


def run_phases(
    session: Session, phases: Sequence[PhaseConfig], directory: Path, *, start: Path | str = ""
) -> Path | str:
    """Trains the phases that are not done, from the model `start` (default: the run's).

    A DPO phase without pairs is skipped with a message. Returns the path of the last phase's checkpoint, or
    `start` if no phase had examples.
    """
    context = session.context
    start = start or context.config.model.path
    pairs = RunStore(context.directory).read("pairs", Pair)
    for number, phase in enumerate(phases, 1):
        if isinstance(phase, DpoPhase):
            examples = dpo_examples(pairs, phase)
        else:
            examples = sft_examples(usable_questions(context)[0], phase)
        if not examples:
            session.log(f"training: phase {phase.name!r} is skipped: no pair has its levels and kinds")
            continue
        target = directory / f"{number:02d}-{phase.name}"
        if not (target / "done.json").exists():
            _run_phase(session, phase, examples, start, target)
        start = target / "model"
    return start


def _run_phase(
    session: Session, phase: PhaseConfig, examples: Sequence[Example], start: Path | str, target: Path
) -> None:
    model, reference, load_full = session.context.config.model, None, None
    if isinstance(phase, DpoPhase) and (phase.cache_reference or phase.reference == "fixed"):
        path = model.path if phase.reference == "fixed" else start
        reference = _store_reference(session, path, examples, phase)
    lm = _load(session, start, examples)
    if model.quantization != "none" or shards_weights():
        dtype = str(pick_dtype(model.dtype, pick_device(model.device))).removeprefix("torch.")
        plain = {"path": str(start), "quantization": "none", "device": "cpu", "dtype": dtype}
        load_full = functools.partial(load_model, **model.model_dump() | plain)
    trained = train_phase(lm, phase, examples, session, target, reference=reference, load_full=load_full)
    if process_rank() == 0:
        save_checkpoint(trained, target / "model")
        done = {"phase": phase.model_dump(mode="json"), "num_examples": len(examples)}
        write_json(target / "done.json", done)
        # A kill may have left a temporary file too.
        for file in target.glob("*state.safetensors*"):
            file.unlink()
    wait_for_all()


def train_phase(
    lm: VideoLM,
    phase: PhaseConfig,
    examples: Sequence[Example],
    session: Session,
    directory: Path,
    *,
    reference: ReferenceStore | None = None,
    load_full: Callable[[], VideoLM] | None = None,
) -> VideoLM:
    """The model after the phase, LoRA merged. Writes the metrics of each step to `directory/metrics.jsonl`.

    A phase that was stopped resumes from its last state in `directory`, with the same numbers as without the
    stop. `reference` holds the reference's log-probabilities if these were computed before. `load_full` loads
    the full weights that quantized or sharded ones were made from; then only process 0 returns the trained
    model. Raises ValueError if the loss or its gradient is not finite; the state that was saved last stays.
    """
    run, config, state = session.context.directory, session.context.config, directory / "state.safetensors"
    frames = FrameStore(run / "frames")
    seed, num_steps = config.run.seed, phase.epochs * math.ceil(len(examples) / phase.batch_size)
    torch.manual_seed(derive_seed(seed, phase.name, "weights"))
    features = FeatureStore(run / "train" / "features", lm.model) if phase.cache_features else None
    policy = Policy(lm.model, phase, store=reference, features=features)
    counts = policy.count_trained()
    session.log(
        f"training: phase {phase.name!r} trains "
        + ", ".join(f"{part.replace('_', ' ')} {count:,}" for part, count in counts.items())
        + f" {'LoRA parameters' if phase.lora_rank else 'parameters'}"
        + ("; LoRA does not reach experts" if phase.lora_rank and "experts" in counts else "")
    )
    trainer = Trainer(policy, phase, num_steps=num_steps, seed=seed, max_tokens=config.training.max_tokens)
    trainer.restore(state)
    log = MetricsLog(directory / "metrics.jsonl", num_steps=trainer.num_steps_done)
    batches = load_batches(
        itertools.islice(plan_batches(examples, phase, log.rows, seed=seed), trainer.num_steps_done, None),
        lambda example: example.load(lm, frames),
        rank=process_rank(),
        num_processes=num_processes(),
    )
    saved_at = time.perf_counter()
    for batch in batches:
        log.append(trainer.step(batch))
        session.progress(directory, len(log.rows), num_steps, log.rows[-1])
        is_due = time.perf_counter() - saved_at >= 60 * config.training.checkpoint_minutes
        # Clocks differ, and all processes must do the same.
        if any(gather_object([is_due])):
            trainer.save(state)
            saved_at = time.perf_counter()
    if warning := find_warning(log.rows, phase):
        session.log(warning)
    if load_full is None:
        return VideoLM(policy.merged(), lm.processor)
    trained = trainer.full_tensors(policy.trained)
    return lm if process_rank() else VideoLM(policy.merged(load_full().model, trained), lm.processor)


def _load(session: Session, path: Path | str, examples: Sequence[Example]) -> VideoLM:
    """A checkpoint that can be trained on all examples; raises ValueError if one is too long."""
    config, frames = session.context.config, FrameStore(session.context.directory / "frames")
    lm = load_model(**config.model.model_dump() | {"path": path})
    limit = config.training.max_tokens
    check_lengths(examples, lm, frames, max_tokens=limit, video_lengths=session.video_lengths)
    return lm


def _store_reference(
    session: Session, path: Path | str, examples: Sequence[Example], phase: PhaseConfig
) -> ReferenceStore:
    """The log-probabilities of all examples under the model at `path`, computed by all processes."""
    lm, run = _load(session, path, examples), session.context.directory
    frames, directory, dtype = FrameStore(run / "frames"), run / "train" / "reference", lm.model.dtype
    key = f"{model_key(lm, path)}{'' if phase.lora_rank else '-float32'}"
    # Like the policy, so that both compute alike.
    model = lm.model if phase.lora_rank else unfreeze(lm.model, phase)
    own = examples[process_rank() :: num_processes()]
    groups = (example.load(lm, frames) for example in own)
    ReferenceStore(directory, key=key, rank=process_rank()).fill(model, groups, dtype=dtype)
    wait_for_all()
    return ReferenceStore(directory, key=key)


def save_checkpoint(lm: VideoLM, path: Path) -> None:
    """Writes a plain Hugging Face checkpoint with its processor; the directory appears in one step."""
    with replace_directory(path) as directory:
        lm.model.save_pretrained(directory)
        lm.processor.save_pretrained(directory)


def trained_models(context: Context) -> dict[str, Path]:
    """Name to checkpoint of every model that a run trained: the baselines, then `tempo`, the method."""
    folders = {name: f"baselines/{name}" for name in context.config.training.baselines}
    folders["tempo"] = "train"
    done = {name: sorted(context.directory.glob(f"{path}/*/done.json")) for name, path in folders.items()}
    return {name: paths[-1].parent / "model" for name, paths in done.items() if paths}
