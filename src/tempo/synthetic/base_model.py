"""Makes the embedded model: a small Qwen2.5-VL that knows the world but not the order of its events.

    python -m tempo.synthetic.base_model --out src/tempo/synthetic/model

With `--go-on-from DIR` the last part goes on from a checkpoint, also with several processes:

    torchrun --nproc-per-node 2 -m tempo.synthetic.base_model --go-on-from DIR --out DIR --num-threads 1

The vision tower learns to see first (`eyesight.py`), the language model to copy from lists (`reading.py`).
Then come single clips: what things are and do, a clip's caption given the clip before it. Whole stories come
last, with their order lost as `order_fidelity` says: at 0 a story's caption tells what happens and never
when, the disease that the method cures. `card.py` measures the result.
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
from tempo.sections import ModelConfig
from tempo.synthetic.eyesight import Looks, train_eyesight
from tempo.synthetic.lessons import LOOKS, MASTERED, STORY_LENGTHS, VIEW, Lessons, Recipe
from tempo.synthetic.reading import train_reading
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
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": VIEW,
        "fullatt_block_indexes": [1, 3],
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


def train(lm: VideoLM, recipe: Recipe, out: Path) -> None:
    """Trains in place: eyesight, reading, then all lessons; saves to `out` after each part."""
    torch.set_num_threads(recipe.num_threads)
    looks = Looks(recipe.eyesight_steps, recipe.seed, VIEW, LOOKS)
    train_eyesight(lm.model, lm.processor.video_processor, looks, learning_rate=2e-3)
    draw = Lessons(lm, recipe).draw_events
    train_reading(lm, draw, seed=recipe.seed, most_steps=recipe.reading_steps, learning_rate=1.5e-3)
    save(lm, out)
    train_lessons(lm, recipe, out)


def train_lessons(lm: VideoLM, recipe: Recipe, out: Path) -> None:
    """Trains on all lessons; prints progress every 100 steps, saves to `out` every 500 and at the end.

    Under `torchrun` every process takes lessons of its own and gradients are averaged.
    """
    rank, model = int(os.environ.get("RANK", "0")), lm.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    lessons = Lessons(lm, recipe, rank)
    loader = DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8)
    start, minutes, seen = time.perf_counter(), 0.0, dict[str, float]()
    for step, lesson in enumerate(loader):
        # The rate follows whichever runs out first, steps or minutes, so that a slow machine also anneals.
        done = max(step / recipe.steps, minutes / recipe.max_minutes)
        if done >= 1:
            break
        for parameters in optimizer.param_groups:
            parameters["lr"] = recipe.learning_rate * min((step + 1) / 100, 1.0, (1 - done) / 0.6)
        by_kind: dict[str, list[Group]] = pickle.loads(lesson)
        groups = [group for some in by_kind.values() for group in some]
        logps = [torch.cat(group) for group in log_probs(model, groups)]
        (-torch.cat(logps).mean()).backward()
        minutes = _average(model, (time.perf_counter() - start) / 60)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _note(seen, by_kind, logps)
        _grow(lessons, seen)
        if rank == 0 and step % 100 == 0:
            figures = " ".join(f"{kind} {value:.3f}" for kind, value in seen.items())
            print(f"step {step} minutes {minutes:.1f} {figures}", flush=True)
        if rank == 0 and step % 500 == 499:
            save(lm, out)
    model.eval()
    if rank == 0:
        save(lm, out)


def _average(model: Any, minutes: float) -> float:
    """Averages gradients over all processes, and the minutes too, so that all keep the same schedule."""
    if not distributed.is_initialized():
        return minutes
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([minutes])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients] + [1])[:-1], strict=True):
        gradient.copy_(mean.view_as(gradient))
    return float(flat[-1])


def _grow(lessons: Lessons, seen: dict[str, float]) -> None:
    """Makes stories longer once those of the present length are mastered."""
    longer = [length for length in STORY_LENGTHS if length > lessons.story_length.value]
    if longer and seen.get("story", 1.0) < MASTERED:
        lessons.story_length.value = longer[0]
        seen["story"] = 1.0
        print(f"stories of up to {longer[0]}", flush=True)


def _note(seen: dict[str, float], by_kind: dict[str, list[Group]], logps: list[torch.Tensor]) -> None:
    """Updates the running mean of each kind's token loss."""
    left = iter(logps)
    for kind, groups in by_kind.items():
        if groups:
            loss = -float(torch.cat([next(left) for _ in groups]).detach().mean())
            seen[kind] = 0.95 * seen.get(kind, loss) + 0.05 * loss


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
        help="checkpoint that has eyesight and can read; lessons only",
    )
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    out, start = arguments.pop("out"), arguments.pop("start")
    recipe = Recipe(**arguments)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    if start:
        torch.set_num_threads(recipe.num_threads)
        train_lessons(load_video_lm(ModelConfig(path=start, dtype="float32")), recipe, out)
    else:
        train(build_model(recipe), recipe, out)


if __name__ == "__main__":
    main()
