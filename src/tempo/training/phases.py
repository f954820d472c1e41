"""Runs phases in order: each continues from the model of the previous one, which stays loaded."""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from tempo.config import DpoPhase, GrpoPhase, ModelConfig, PhaseConfig, SftPhase
from tempo.core.files import write_json
from tempo.core.hashing import derive_seed
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.ranks import num_processes, process_rank, shards_weights, wait_for_all
from tempo.engine.types import Context
from tempo.model.loading import load_model
from tempo.model.prefix import Group, packed_log_probs
from tempo.training.adapters import TrainedModel, only, save_checkpoint
from tempo.training.examples import Example, dpo_examples, fit_examples, sft_examples
from tempo.training.grpo import Sampler, grpo_examples
from tempo.training.instructions import usable_questions
from tempo.training.metrics import MARGINS, MetricsLog, find_warning
from tempo.training.order import load_batches, plan_batches
from tempo.training.policy import Policy, unfreeze
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
    #: Numbers of tokens of videos (`fit_examples`), measured once for all phases.
    video_lengths: dict[tuple[str, int], int] = field(default_factory=dict)


def run_training(session: Session) -> None:
    """Trains the unfinished phases and writes `model/` and `adapter/`; then those of every baseline.

    Raises ValueError if there are no pairs for DPO phases, or no questions for SFT phases.
    """
    context, training = session.context, session.context.config.training
    if any(isinstance(phase, SftPhase) for phase in training.phases):
        _, num_left_out = usable_questions(context)
        if num_left_out:
            reason = "their videos were skipped or held out"
            session.log(f"training: {num_left_out} instructions are left out, because {reason}")
    pairs = RunStore(context.directory).read("pairs", Pair)
    dpo_phases = [phase for phase in training.phases if isinstance(phase, DpoPhase)]
    if dpo_phases and not any(dpo_examples(pairs, phase) for phase in dpo_phases):
        raise ValueError(
            "there are no pairs to train on. `tempo status` shows why videos were skipped; add videos, or "
            "loosen the rules in [clips] and [pairs]"
        )
    for name, (adapter, phases) in _sequences(context).items():
        trained = TrainedModel(context.config.model, adapter)
        for target, phase in phases.items():
            _run_phase(session, phase, pairs, trained, target)
        if name == "tempo" and process_rank() == 0 and not (context.directory / "model").exists():
            _write_result(session, trained, [e for phase in dpo_phases for e in dpo_examples(pairs, phase)])


def _sequences(context: Context) -> dict[str, tuple[Path, dict[Path, PhaseConfig]]]:
    """Maps the name of each model that a run trains to its adapter, and to its phases by their folders."""
    by_name = {phase.name: phase for phase in context.config.training.phases}

    def phases_in(folder: Path, names: Iterable[str]) -> dict[Path, PhaseConfig]:
        return {folder / f"{number:02d}-{name}": by_name[name] for number, name in enumerate(names, 1)}

    run = context.directory
    sequences = {"tempo": (run / "adapter", phases_in(run / "train", by_name))}
    for name, wanted in context.config.training.baselines.items():
        folder = run / "baselines" / name
        sequences[name] = (folder / "adapter", phases_in(folder, wanted))
    return sequences


def _run_phase(
    session: Session, phase: PhaseConfig, pairs: Sequence[Pair], trained: TrainedModel, target: Path
) -> None:
    """Trains a phase unless it is finished; `trained` becomes the model after it.

    A DPO phase without pairs is skipped with a message.
    """
    context, known = session.context, session.video_lengths
    if isinstance(phase, DpoPhase):
        examples = dpo_examples(pairs, phase)
    elif isinstance(phase, GrpoPhase):
        examples = grpo_examples(context)
    else:
        examples = sft_examples(usable_questions(context)[0], phase)
    if not examples:
        session.log(f"training: phase {phase.name!r} is skipped: no pair has its levels and kinds")
        return
    if not (target / "done.json").exists():
        frames, limit = FrameStore(context.directory / "frames"), context.config.training.max_tokens
        examples = fit_examples(examples, trained.lm, frames, max_tokens=limit, video_lengths=known)
        weights = train_phase(trained, phase, examples, session, target)
        if process_rank() == 0:
            trained.save_phase(phase, weights, target)
            settings = phase.model_dump(mode="json")
            write_json(target / "done.json", {"phase": settings, "num_examples": len(examples)})
            # A killed process may also have left a temporary file.
            for file in target.glob("*state.safetensors*"):
                file.unlink()
        wait_for_all()
    trained.finish_phase(phase, target)


def train_phase(
    trained: TrainedModel,
    phase: PhaseConfig,
    examples: Sequence[Example],
    session: Session,
    directory: Path,
) -> dict[str, Tensor]:
    """Trains a phase on top of `trained`; writes the metrics of each step to `directory/metrics.jsonl`.

    A DPO phase writes the margin of each pair to `directory/margins.jsonl`. A phase that was stopped resumes
    from its last state in `directory`, with the same results as without the stop. Returns what
    `TrainedModel.save_phase` needs. Raises ValueError if the loss or its gradient is not finite; the last
    saved state is kept.
    """
    lm, config, frames = trained.lm, session.context.config, FrameStore(session.context.directory / "frames")
    seed, num_steps = config.run.seed, phase.epochs * math.ceil(len(examples) / phase.batch_size)
    first = _first_model(trained, phase, config.model)
    torch.manual_seed(derive_seed(seed, phase.name, "weights"))
    policy = Policy(lm.model, phase, dtype=trained.dtype, first=first)
    session.log(f"training: phase {phase.name!r} trains {policy.describe_trained()}")
    sampler = Sampler(session.context, phase, lm, policy) if isinstance(phase, GrpoPhase) else None
    trainer = Trainer(policy, phase, num_steps=num_steps, seed=seed, max_tokens=config.training.max_tokens)
    state = directory / "state.safetensors"
    trainer.restore(state)
    log = MetricsLog(directory / "metrics.jsonl", num_steps=trainer.num_steps_done)
    is_dpo = isinstance(phase, DpoPhase)
    margins = MetricsLog(directory / MARGINS, num_steps=trainer.num_steps_done) if is_dpo else None
    batches = load_batches(
        itertools.islice(plan_batches(examples, phase, log.rows, seed=seed), trainer.num_steps_done, None),
        sampler.load if sampler else lambda example: example.load(lm, frames),
        rank=process_rank(),
        num_processes=num_processes(),
    )
    saved_at = time.perf_counter()
    for batch in batches:
        log.append(trainer.step(sampler(batch, trainer.num_steps_done + 1) if sampler else batch))
        if margins:
            margins.append(trainer.margins)
        session.progress(directory, len(log.rows), num_steps, log.rows[-1])
        is_due = time.perf_counter() - saved_at >= 60 * config.training.checkpoint_minutes
        # Clocks differ, and all processes must save at the same step.
        if any(gather_object([is_due])):
            trainer.save(state)
            saved_at = time.perf_counter()
    if warning := find_warning(log.rows, phase):
        session.log(warning)
    if phase.gradient_checkpointing:
        lm.model.gradient_checkpointing_disable()
    lm.model.eval()
    needs_weights = phase.lora_rank or shards_weights()
    return trainer.full_tensors(policy.trained) if needs_weights else {}


def _first_model(trained: TrainedModel, phase: PhaseConfig, config: ModelConfig) -> Any:
    """The model before the first phase, if it is the reference and not `trained` without its adapters."""
    is_fixed = isinstance(phase, DpoPhase) and phase.reference == "fixed"
    if not is_fixed or (trained.base == config.path and (phase.lora_rank or not trained.rank)):
        return None
    model = load_model(**config.model_dump()).model
    if not phase.lora_rank:
        # With the same dtypes as the policy, so that both round in the same way.
        unfreeze(model, phase)
    return model.requires_grad_(False)


def _write_result(session: Session, trained: TrainedModel, examples: Sequence[Example]) -> None:
    """Writes `model/`, the plain model with the stack merged, and logs how much of the margin it keeps."""
    run = session.context.directory
    if trained.base == session.context.config.model.path and not trained.rank:
        return
    if not trained.rank:
        shutil.rmtree(trained.adapter, ignore_errors=True)
    frames, shown = FrameStore(run / "frames"), examples[:: max(1, len(examples) // 8)]
    is_measured = trained.rank and shown and not trained.needs_plain
    if is_measured:
        with torch.no_grad():
            groups = [example.load(trained.lm, frames) for example in shown]
            with only(trained.lm.model, []) as base:
                before = _margins(base, groups)
            wanted = _margins(trained.lm.model, groups) - before
    lm = trained.merged()
    save_checkpoint(lm, run / "model")
    if is_measured:
        kept = []
        for dtype in dict.fromkeys([trained.dtype, torch.bfloat16]):
            margins = _margins(lm.model.to(dtype), groups) - before
            share = float(margins @ wanted / wanted.square().sum().clamp(min=1e-12))
            kept.append(f"{share:.1%} in {str(dtype).removeprefix('torch.')}")
        session.log(
            f"training: model/ is merged; of the margin of {len(wanted)} pairs it keeps {', '.join(kept)}"
        )


@torch.no_grad()
def _margins(model: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probability of the chosen answer minus that of each rejected one, for all groups."""
    rows = [[answer.double().sum() for answer in packed_log_probs(model, [group])[0]] for group in groups]
    return torch.stack([chosen - rejected for chosen, *others in rows for rejected in others]).cpu()


def run_models(context: Context) -> dict[str, TrainedModel]:
    """Maps names to the models of a run: `base`, the trained baselines, then `tempo`, the method."""
    models = {"base": TrainedModel(context.config.model, Path())}
    for name, (adapter, phases) in _sequences(context).items():
        trained = TrainedModel(context.config.model, adapter)
        for target, phase in phases.items():
            if (target / "done.json").exists():
                trained.finish_phase(phase, target)
        if trained.rank or trained.base != context.config.model.path:
            models[name] = trained
    return dict(sorted(models.items(), key=lambda item: item[0] == "tempo"))
