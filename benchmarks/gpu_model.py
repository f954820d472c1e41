"""The model and the video of `gpu.py`: Qwen2.5-VL-7B's configuration, and a tiny one, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """A model's configuration and the size of its input; `grid` is the video in patches."""

    name: str
    text: dict[str, Any]
    vision: dict[str, Any]
    video_token: int
    start_token: int
    end_token: int
    grid: tuple[int, int, int]
    num_answer_tokens: int
    num_rejected: int = 3
    num_prompt_tokens: int = 40


SEVEN_B = Size(
    name="Qwen2.5-VL-7B",
    text={
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    vision={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 3584,
        "tokens_per_second": 2,
    },
    video_token=151656,
    start_token=151652,
    end_token=151653,
    grid=(60, 24, 32),
    num_answer_tokens=300,
)

TINY = Size(
    name="tiny",
    text={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    },
    vision={
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
        "tokens_per_second": 2,
    },
    video_token=90,
    start_token=91,
    end_token=92,
    grid=(4, 8, 8),
    num_answer_tokens=6,
    num_prompt_tokens=5,
)


def make_config(size: Size) -> Any:
    """The model's configuration in transformers."""
    from tempo.model.loading import repair_torchvision

    repair_torchvision()
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config=size.text,
        vision_config=size.vision,
        video_token_id=size.video_token,
        image_token_id=size.video_token - 1,
        vision_start_token_id=size.start_token,
        vision_end_token_id=size.end_token,
        tie_word_embeddings=False,
    )


def make_model(size: Size, device: Any, *, vision_attention: str) -> Any:
    """The model with random weights, created on the device: bfloat16 on a GPU, float32 on a CPU."""
    import torch

    from tempo.model.support import use_shared_prefix

    config = make_config(size)
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    use_shared_prefix(model)
    model.set_attn_implementation({"vision_config": vision_attention})
    return model.eval()


def make_video_group(size: Size, dtype: Any) -> Any:
    """A video of noise with a prompt and all answers to it, as one group on the CPU."""
    import torch

    from tempo.model.prefix import ContinuationTokens, Group

    generator = torch.Generator().manual_seed(0)

    def words(count: int) -> torch.Tensor:
        return torch.randint(3, 80, (count,), generator=generator)

    grid = torch.tensor([size.grid])
    values = 3 * 2 * size.vision["patch_size"] ** 2
    pixels = torch.randn(int(grid.prod()), values, generator=generator).to(dtype)
    video = torch.full((int(grid.prod()) // 4,), size.video_token)
    start, end = torch.tensor([size.start_token]), torch.tensor([size.end_token])
    ids = torch.cat([words(3), start, video, end, words(size.num_prompt_tokens)])[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.where(ids == size.video_token, 2, 0),
        "pixel_values_videos": pixels,
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.tensor([2.0]),
    }
    answers = [words(size.num_answer_tokens).tolist() for _ in range(size.num_rejected + 1)]
    return Group(inputs, tuple(ContinuationTokens(tuple(answer)) for answer in answers))
