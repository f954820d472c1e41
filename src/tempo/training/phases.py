"""The ordered list of phases: each starts from the checkpoint of the one before and leaves its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tempo.config import Config
from tempo.model.loading import VideoLM, load_video_lm
from tempo.records import Pair, Video
from tempo.sections import PhaseConfig
from tempo.stage import Context
from tempo.store import RunStore, write_json
from tempo.training.groups import Lesson, check_lengths, dpo_lessons, sft_lessons
from tempo.training.trainer import train_phase
from tempo.video.frames import FrameStore

#: Called with the phase's directory, step, number of steps and the step's metrics.
Progress = Callable[[str, int, int, dict[str, float]], None]


def run_training(context: Context, progress: Progress, tell: Callable[[str], None]) -> None:
    """Trains the method and every baseline, each phase that is not done yet; writes `model/` last.

    A DPO phase whose levels have no pair is passed over, and `tell` says so; without any pair at all there is
    nothing to train on, and ValueError says so.
    """
    config = context.config
    _check_pairs(context, tell)
    final = run_phases(context, config.training.phases, context.directory / "train", progress)
    by_name = {phase.name: phase for phase in config.training.phases}
    for name, wanted in config.training.baselines.items():
        phases = [by_name[phase] for phase in wanted]
        run_phases(context, phases, context.directory / "baselines" / name, progress)
    _copy_model(final, context.directory / "model")


def run_phases(
    context: Context, phases: Sequence[PhaseConfig], directory: Path, progress: Progress
) -> Path | str:
    """The path of the last phase's checkpoint, the base model's where there is no phase."""
    start: Path | str = context.config.model.path
    pairs = RunStore(context.directory).read("pairs", Pair)
    for number, phase in enumerate(phases, 1):
        if phase.objective == "dpo" and not dpo_lessons(pairs, phase):
            continue
        target = directory / f"{number:02d}-{phase.name}"
        if not (target / "done.json").exists():
            _run_phase(context, phase, start, target, progress)
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


def _check_pairs(context: Context, tell: Callable[[str], None]) -> None:
    """Says which DPO phases have no pair; raises ValueError if none has."""
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


def _run_phase(
    context: Context, phase: PhaseConfig, start: Path | str, target: Path, progress: Progress
) -> None:
    # A phase that was stopped half-way is begun again: its steps are seeded, so the result is the same.
    shutil.rmtree(target, ignore_errors=True)
    config = context.config
    frames = FrameStore(context.directory / "frames")
    lm = load_video_lm(config.model.model_copy(update={"path": str(start)}))
    lessons = _lessons(context, phase, frames)
    check_lengths(lessons, lm, frames, max_tokens=config.training.max_tokens)
    trained = train_phase(
        lm,
        phase,
        lessons,
        frames=frames,
        seed=config.run.seed,
        max_tokens=config.training.max_tokens,
        metrics_path=target / "metrics.jsonl",
        progress=lambda step, steps, row: progress(
            str(target.relative_to(context.directory)), step, steps, row
        ),
    )
    save_checkpoint(trained, target / "model")
    write_json(
        target / "done.json", {"phase": json.loads(phase.model_dump_json()), "num_lessons": len(lessons)}
    )


def _lessons(context: Context, phase: PhaseConfig, frames: FrameStore) -> list[Lesson]:
    store = RunStore(context.directory)
    if phase.objective == "dpo":
        return dpo_lessons(store.read("pairs", Pair), phase)
    return sft_lessons(instructions_path(context), store.read("videos", Video), frames)


def instructions_path(context: Context) -> Path:
    """The instruction file: the user's, or that of the embedded world."""
    config: Config = context.config
    if config.synthetic:
        return context.directory / "synthetic" / "instructions.jsonl"
    return Path(config.training.instructions)


def save_checkpoint(lm: VideoLM, path: Path) -> None:
    """Writes a plain Hugging Face checkpoint with its processor; it appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    lm.model.save_pretrained(temporary)
    lm.processor.save_pretrained(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _copy_model(source: Path | str, target: Path) -> None:
    """Puts the final checkpoint where users look for it. Without any phase there is nothing to put."""
    if isinstance(source, str):
        return
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
