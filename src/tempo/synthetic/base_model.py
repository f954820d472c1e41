"""Makes the embedded model: a small Qwen2.5-VL that knows the world but not the order of its events.

    torchrun --nproc-per-node 2 -m tempo.synthetic.base_model --out src/tempo/synthetic/model

The vision tower learns to see first (`eyesight.py`). Then the language model learns what things are and do,
in clips and in stories that grow, to caption a clip given the clip before it, and to fuse a list of captions
(`lessons.py`). Whole stories are told last, with their order lost as `order_fidelity` says: at 0 a story's
caption tells what happens and never when, the disease that the method cures. `card.py` measures the result.

`--go-on-from DIR` starts with a checkpoint that can see and does the lessons only.
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

from tempo.model.attention import register_shared_prefix
from tempo.model.loading import VideoLM, load_video_lm, repair_torchvision, use_shared_prefix
from tempo.model.prefix import Group, log_probs
from tempo.processes import process_rank
from tempo.sections import ModelConfig
from tempo.synthetic.eyesight import Looks, train_eyesight
from tempo.synthetic.lessons import KINDS, LOOKS, VIEW, Lessons, Recipe
from tempo.synthetic.tokenizer import CHAT_TEMPLATE, make_tokenizer


def build_model(recipe: Recipe) -> VideoLM:
    """The untrained model with its tokenizer, processor and chat template."""
    repair_torchvision()
    register_shared_prefix()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = make_tokenizer()
    sight: dict[str, Any] = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": VIEW * VIEW, "longest_edge": VIEW * VIEW},
    }
    video_processor = Qwen2VLVideoProcessor(**sight, cap_pixels_per_frame=False)
    processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**sight), tokenizer, video_processor, CHAT_TEMPLATE)
    torch.manual_seed(recipe.seed)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**_sizes(tokenizer)))
    use_shared_prefix(model)
    return VideoLM(model, processor)


def _sizes(tokenizer: Any) -> dict[str, Any]:
    """The configuration: about 3.5 M parameters."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("video_pad", "image_pad")}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 8, 8]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 6,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": VIEW,
        "fullatt_block_indexes": [1, 3, 5],
        "tokens_per_second": 1,
    }
    return {
        "text_config": text,
        "vision_config": vision,
        "video_token_id": ids["video_pad"],
        "image_token_id": ids["image_pad"],
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": True,
    }


def train(lm: VideoLM, recipe: Recipe, out: Path, *, can_see: bool = False) -> None:
    """Trains in place: eyesight (unless it `can_see`), then all lessons; saves to `out` after each part.

    Under `torchrun` every process takes work of its own and gradients are averaged.
    """
    torch.set_num_threads(recipe.num_threads)
    if not can_see:
        looks = Looks(recipe.eyesight_steps, (recipe.seed, process_rank()), VIEW, LOOKS)
        train_eyesight(lm, looks, learning_rate=1e-3, average=_average)
        if process_rank() == 0:
            save(lm, out)
    # What it sees is settled: the language model learns faster if the words for it stand still.
    lm.model.model.visual.requires_grad_(False)
    train_lessons(lm, recipe, out)


def train_lessons(lm: VideoLM, recipe: Recipe, out: Path) -> None:
    """Trains the language model on all lessons; prints progress every 100 steps, saves to `out` every 500."""
    model = lm.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02)
    lessons = Lessons(lm, recipe, process_rank())
    loader = DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8)
    start, minutes, seen = time.perf_counter(), 0.0, dict[str, float]()
    for step, lesson in enumerate(loader):
        # The rate follows whichever runs out first, steps or minutes, so that a slow machine also anneals.
        done = max(step / recipe.steps, minutes / recipe.max_minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min((step + 1) / 100, 1.0, (1 - done) / 0.3)
        by_kind: dict[str, list[Group]] = pickle.loads(lesson)
        logps = [torch.cat(group) for group in log_probs(model, [g for kind in KINDS for g in by_kind[kind]])]
        totals = _sums(by_kind, logps)
        # Every kind counts the same, or yes and no would drown in the words of stories.
        kinds = [-torch.cat(some).mean() for some in _split(by_kind, logps) if some]
        torch.stack(kinds).mean().backward()
        minutes, *sums = _average(parameters, [(time.perf_counter() - start) / 60, *totals])
        nn.utils.clip_grad_norm_(parameters, 1.0)
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


def _average(parameters: list[Any], figures: list[float]) -> list[float]:
    """Averages gradients over all processes in place, and returns the means of the figures.

    Minutes and losses go along: all processes keep the same schedule, and lessons grow at the same time.
    """
    if not distributed.is_initialized():
        return figures
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(figures)])
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
        logp = torch.cat([torch.zeros(0), *(group.detach() for group in some)])
        sums += [-float(logp.sum()), float(len(logp))]
    return sums


def save(lm: VideoLM, path: Path) -> None:
    """Writes an ordinary Hugging Face directory, weights in bfloat16."""
    copy.deepcopy(lm.model).to(torch.bfloat16).save_pretrained(path)
    lm.processor.save_pretrained(path)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--go-on-from",
        default="",
        dest="start",
        help="a checkpoint that can see; lessons only",
    )
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    out, start = arguments.pop("out"), arguments.pop("start")
    recipe = Recipe(**arguments)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    lm = load_video_lm(ModelConfig(path=start, dtype="float32")) if start else build_model(recipe)
    train(lm, recipe, out, can_see=bool(start))


if __name__ == "__main__":
    main()
