"""Makes an embedded model: a small Video LLM that knows the world but not the order of its events.

    torchrun --nproc-per-node 2 -m research.embedded_model.base_model --out src/tempo/synthetic/model
    python -m research.embedded_model.base_model --out research/embedded_model/llava \\
        --architecture llava_onevision

The vision tower learns to see first (`eyesight.py`; `frame_eyesight.py` where it sees frame by frame). Then
the language model learns what things are and do, in clips and in stories that grow, to caption a clip given
the clip before it, and to fuse a list of captions (`lessons.py`). Whole stories are told last, with their
order lost as `order_fidelity` says: at 0 a story's caption tells what happens and never when, the disease
that the method cures. `card.py` measures the result.

`--go-on-from DIR` starts with a checkpoint that can see and does the lessons only. `--size large` is ten
times as large, for a GPU (`benchmarks/gpu_study.sh`). Arithmetic is float32; on a GPU products are TF32,
three bits finer than the bfloat16 that weights are saved in.
"""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader

from research.embedded_model.architectures import ARCHITECTURES, SIZES, build_model, sight_parameters
from research.embedded_model.eyesight import Looks, train_eyesight
from research.embedded_model.frame_eyesight import FrameLooks, train_frame_eyesight
from research.embedded_model.lessons import KINDS, LOOKS, VIEW, Lessons, Recipe
from tempo.engine.ranks import pick_device, process_rank
from tempo.model.chat import VideoLM
from tempo.model.loading import load_model
from tempo.model.prefix import Group, language_model, packed_log_probs

#: Muon's learning rate over AdamW's: its steps have a fifth of the rate's size, AdamW's early ones all of it.
MUON_SHARE = 2
#: What the command line takes for keys of the recipe.
CHOICES = {
    "architecture": sorted(ARCHITECTURES),
    "size": list(SIZES),
    "device": ["auto", "cpu", "cuda"],
    "optimizer": ["adamw", "muon"],
}


def train(lm: VideoLM, recipe: Recipe, out: Path, *, can_see: bool = False) -> None:
    """Trains in place: eyesight (unless it `can_see`), then all lessons; saves to `out` after each part.

    Under `torchrun` every process takes work of its own and gradients are averaged.
    """
    torch.set_num_threads(recipe.num_threads)
    if not can_see:
        _learn_to_see(lm, recipe)
        if process_rank() == 0:
            save(lm, out)
    # What it sees is settled: the language model learns faster if the words for it stand still.
    for parameter in sight_parameters(lm.model):
        parameter.requires_grad_(False)
    train_lessons(lm, recipe, out)


def _learn_to_see(lm: VideoLM, recipe: Recipe) -> None:
    """Eyesight by the tower's way of looking: at two frames at once, or at one."""
    steps, seed = recipe.eyesight_steps, (recipe.seed, process_rank())
    how: dict[str, Any] = {"learning_rate": 1e-3, "average": _average, "num_loaders": recipe.num_loaders}
    if hasattr(lm.model.model, "visual"):
        train_eyesight(lm, Looks(steps, seed, VIEW, LOOKS), **how)
    else:
        train_frame_eyesight(lm, FrameLooks(steps, seed, VIEW, LOOKS), **how)


def train_lessons(lm: VideoLM, recipe: Recipe, out: Path) -> None:
    """Trains the language model on all lessons; prints progress every 100 steps, saves to `out` every 500."""
    model = lm.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = _optimizers(model, recipe)
    lessons = Lessons(lm, recipe, process_rank())
    loader = DataLoader(lessons, batch_size=None, num_workers=recipe.num_loaders, prefetch_factor=8)
    start, minutes, seen = time.perf_counter(), 0.0, dict[str, float]()
    for step, lesson in enumerate(loader):
        # The rate follows whichever runs out first, steps or minutes, so that a slow machine also anneals.
        done = max(step / recipe.steps, minutes / recipe.max_minutes)
        if done >= 1:
            break
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["share"] * recipe.learning_rate * min((step + 1) / 100, 1.0, (1 - done) / 0.3)
        by_kind: dict[str, list[Group]] = pickle.loads(lesson)
        logps = [
            torch.cat(group)
            for group in packed_log_probs(model, [g for kind in KINDS for g in by_kind[kind]])
        ]
        totals = _sums(by_kind, logps)
        # Every kind counts the same, or yes and no would drown in the words of stories.
        kinds = [-torch.cat(some).mean() for some in _split(by_kind, logps) if some]
        torch.stack(kinds).mean().backward()
        minutes, *sums = _average(parameters, [(time.perf_counter() - start) / 60, *totals])
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for kind, total, count in zip(KINDS, sums[::2], sums[1::2], strict=True):
            if count:
                seen[kind] = 0.95 * seen.get(kind, total / count) + 0.05 * total / count
        lessons.grow(seen)
        if process_rank() == 0 and step % 100 == 0:
            figures = " ".join(f"{kind} {value:.3f}" for kind, value in seen.items())
            print(f"step {step} minutes {minutes:.1f} {figures}", flush=True)
        if process_rank() == 0 and step % 500 == 499:
            save(lm, out)
    model.eval()
    if process_rank() == 0:
        save(lm, out)


def _optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all that learns, or Muon for the matrices of the layers and AdamW for the rest."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    layers = {id(p) for p in language_model(model).layers.parameters() if p.ndim == 2}
    matrices = [p for p in parameters if recipe.optimizer == "muon" and id(p) in layers]
    others = [p for p in parameters if id(p) not in {id(matrix) for matrix in matrices}]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([{"params": others, "share": 1}], betas=(0.9, 0.98), weight_decay=0.02)
    ]
    if matrices:
        parts = [{"params": matrices, "share": MUON_SHARE}]
        chosen.append(torch.optim.Muon(parts, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
    return chosen


def _average(parameters: list[Any], figures: list[float]) -> list[float]:
    """Averages gradients over all processes in place, and returns the means of the figures.

    Minutes and losses go along: all processes keep the same schedule, and lessons grow at the same time.
    """
    if not distributed.is_initialized():
        return figures
    gradients = [p.grad for p in parameters if p.grad is not None]
    told = torch.tensor(figures, device=parameters[0].device)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), told])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    *parts, means = flat.split([*(gradient.numel() for gradient in gradients), len(figures)])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return [float(mean) for mean in means]


def _split(by_kind: dict[str, list[Group]], logps: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The log-probabilities of the groups of each of KINDS."""
    left = iter(logps)
    return [[next(left) for _ in by_kind[kind]] for kind in KINDS]


def _sums(by_kind: dict[str, list[Group]], logps: list[torch.Tensor]) -> list[float]:
    """For each of KINDS the sum of its token losses and the number of its tokens, one after the other."""
    sums = list[float]()
    for some in _split(by_kind, logps):
        logp = torch.cat([logps[0].detach().new_zeros(0), *(group.detach() for group in some)])
        sums += [-float(logp.sum()), float(len(logp))]
    return sums


def save(lm: VideoLM, path: Path) -> None:
    """Writes an ordinary Hugging Face directory, weights in bfloat16."""
    copy.deepcopy(lm.model).to(torch.bfloat16).save_pretrained(path)
    lm.processor.save_pretrained(path)


def _prepare_device(device: torch.device) -> None:
    """Fast products on a GPU, and under `torchrun` a GPU of its own for each process."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    if "RANK" in os.environ:
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if on_gpu else "gloo")


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--go-on-from", default="", dest="start", help="a checkpoint that can see")
    for name, default in vars(Recipe()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, choices=CHOICES.get(name)
        )
    arguments = vars(parser.parse_args())
    out, start = arguments.pop("out"), arguments.pop("start")
    recipe = Recipe(**arguments)
    if start and (recipe.architecture, recipe.size) != (Recipe.architecture, Recipe.size):
        parser.error("--architecture and --size would do nothing with --go-on-from: the checkpoint says both")
    _prepare_device(pick_device(recipe.device))
    lm = load_model(start, dtype="float32", device=recipe.device) if start else build_model(recipe)
    train(lm, recipe, out, can_see=bool(start))


if __name__ == "__main__":
    main()
