"""Trains an embedded model: first the vision tower, then the language model on examples of growing length.

Arithmetic is in float32. On a GPU, matrix products are in TF32, which has three bits more precision than the
bfloat16 of the saved weights.
"""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from research.embedded_model.examples import KINDS, LanguageExamples, Recipe
from research.embedded_model.models import build_model, vision_parameters
from research.embedded_model.vision import VisionExamples, pretrain_vision
from tempo.model.chat import VideoLM
from tempo.model.prefix import Group, language_model, packed_log_probs

#: Muon's learning rate relative to AdamW's: Muon's steps have a fifth of the rate's size, AdamW's early steps
#: the full size.
MUON_SHARE = 2


def renew_vision(lm: VideoLM, recipe: Recipe) -> None:
    """Replaces the weights outside the language model by untrained ones.

    A tower that is trained afterwards fits the language model, because classes have fixed directions.
    """
    untrained = build_model(recipe.architecture, size=recipe.size, seed=recipe.seed, device=recipe.device)
    with torch.no_grad():
        for old, new in zip(vision_parameters(lm.model), vision_parameters(untrained.model), strict=True):
            old.copy_(new)


def train(lm: VideoLM, recipe: Recipe, out: Path) -> None:
    """Trains in place and saves to `out` after each part; without `vision_steps` only the language model."""
    torch.set_num_threads(recipe.num_threads)
    if lm.model.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if recipe.vision_steps:
        by_frame = recipe.architecture == "llava_onevision"
        examples = VisionExamples(recipe.vision_steps, recipe.seed, by_frame=by_frame)
        pretrain_vision(lm, examples, learning_rate=1e-3, num_loaders=recipe.num_loaders)
        save(lm, out)
    # The language model learns faster if the visual tokens do not change.
    for parameter in vision_parameters(lm.model):
        parameter.requires_grad_(False)
    train_language(lm, recipe, out)


def train_language(lm: VideoLM, recipe: Recipe, out: Path) -> dict[str, float]:
    """Trains the language model in place; returns the running mean token loss of each kind of example.

    Prints the progress every 100 steps, and saves to `out` every 500 steps and at the end.
    """
    model, examples = lm.model.train(), LanguageExamples(lm, recipe)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = make_optimizers(model, recipe.optimizer)
    loader = DataLoader(examples, batch_size=None, num_workers=recipe.num_loaders, prefetch_factor=8)
    start, losses = time.perf_counter(), dict[str, float]()
    for step, batch in enumerate(loader):
        minutes = (time.perf_counter() - start) / 60
        # The rate follows steps or minutes, whichever run out first, so it also decays on a slow machine.
        done = max(step / recipe.steps, minutes / recipe.max_minutes)
        if done >= 1:
            break
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["share"] * recipe.learning_rate * min((step + 1) / 100, 1.0, (1 - done) / 0.3)
        totals = _backward(model, pickle.loads(batch))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for kind, total, count in zip(KINDS, totals[::2], totals[1::2], strict=True):
            losses[kind] = 0.95 * losses.get(kind, total / count) + 0.05 * total / count
        examples.grow(losses)
        if step % 100 == 0:
            figures = " ".join(f"{kind} {value:.3f}" for kind, value in losses.items())
            print(f"step {step} minutes {minutes:.1f} {figures}", flush=True)
        if step % 500 == 499:
            save(lm, out)
    model.eval()
    save(lm, out)
    return losses


def _backward(model: Any, by_kind: dict[str, list[Group]]) -> list[float]:
    """Backpropagates the mean loss over kinds; returns the sum and number of token losses of each of KINDS.

    Every kind has the same weight, because yes-or-no answers have few tokens and stories have many.
    """
    groups = [group for kind in KINDS for group in by_kind[kind]]
    logps = iter([torch.cat(group) for group in packed_log_probs(model, groups)])
    losses, totals = list[Tensor](), list[float]()
    for kind in KINDS:
        tokens = [-next(logps) for _ in by_kind[kind]]
        totals += [sum(float(t.detach().sum()) for t in tokens), float(sum(map(len, tokens)))]
        losses.append(torch.cat(tokens).mean())
    torch.stack(losses).mean().backward()
    return totals


def make_optimizers(model: Any, name: str) -> list[torch.optim.Optimizer]:
    """AdamW for all trainable parameters, or with `muon` Muon for the matrices of the text layers."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    in_layers = {id(p) for p in language_model(model).layers.parameters() if p.ndim == 2}
    matrices = [p for p in trainable if name == "muon" and id(p) in in_layers]
    others = [p for p in trainable if name != "muon" or id(p) not in in_layers]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([{"params": others, "share": 1}], betas=(0.9, 0.98), weight_decay=0.02)
    ]
    if matrices:
        groups = [{"params": matrices, "share": MUON_SHARE}]
        made.append(torch.optim.Muon(groups, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
    return made


def save(lm: VideoLM, path: Path) -> None:
    """Writes an ordinary Hugging Face directory with weights in bfloat16."""
    copy.deepcopy(lm.model).to(torch.bfloat16).save_pretrained(path)
    lm.processor.save_pretrained(path)
