"""The untrained embedded models: one tokenizer, two architectures (transformers' own), one in two sizes.

Qwen2.5-VL looks at two frames at once and has four visual tokens for them; LLaVA-OneVision looks at one
frame, has four for it, and leaves it to the language model to put frames together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from research.embedded_model.lessons import VIEW, Recipe
from research.embedded_model.tokenizer import CHAT_TEMPLATE, IMAGE, VIDEO, make_tokenizer
from tempo.engine.ranks import pick_device
from tempo.model.attention import register_shared_prefix
from tempo.model.chat import VideoLM
from tempo.model.loading import repair_torchvision, use_shared_prefix
from tempo.model.prefix import inner_model, language_model


@dataclass(frozen=True)
class Size:
    """Width, inner width and layers of language model and tower; heads are 64 and 32 wide in all sizes."""

    text: tuple[int, int, int]
    tower: tuple[int, int, int]


#: About 3.6 M parameters, and about 37 M: to ask whether what holds for the one holds with size. The tower's
#: depth stays, since its task does; few and wide layers, since on a GPU the number of kernels counts here.
SIZES = {"small": Size((192, 512, 4), (128, 320, 6)), "large": Size((640, 1792, 6), (256, 640, 6))}


def build_model(recipe: Recipe) -> VideoLM:
    """The untrained model, on its device, with its tokenizer, processor and chat template.

    Its weights are drawn on the CPU: the same on every device.
    """
    if recipe.architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {recipe.architecture!r} is none of {', '.join(ARCHITECTURES)}")
    if recipe.size not in SIZES:
        raise ValueError(f"size {recipe.size!r} is none of {', '.join(SIZES)}")
    repair_torchvision()
    register_shared_prefix()
    tokenizer = make_tokenizer()
    torch.manual_seed(recipe.seed)
    lm = ARCHITECTURES[recipe.architecture](tokenizer, recipe.size)
    use_shared_prefix(lm.model)
    lm.model.to(pick_device(recipe.device))
    return lm


def sight_parameters(model: Any) -> list[nn.Parameter]:
    """All parameters outside the language model and the head: vision tower, projector, separators."""
    language = {id(parameter) for parameter in language_model(model).parameters()}
    return [p for p in inner_model(model).parameters() if id(p) not in language]


def _text(tokenizer: Any, shape: tuple[int, int, int], rope: dict[str, Any]) -> dict[str, Any]:
    width, inner, num_layers = shape
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6} | rope,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen2_5_vl(tokenizer: Any, size: str) -> VideoLM:
    """Of any of SIZES."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    sight: dict[str, Any] = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": VIEW * VIEW, "longest_edge": VIEW * VIEW},
    }
    video_processor = Qwen2VLVideoProcessor(**sight, cap_pixels_per_frame=False)
    processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**sight), tokenizer, video_processor, CHAT_TEMPLATE)
    width, inner, depth = SIZES[size].tower
    vision = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_heads": width // 32,
        "out_hidden_size": SIZES[size].text[0],
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": VIEW,
        "fullatt_block_indexes": [1, 3, 5],
        "tokens_per_second": 1,
    }
    names = ("video_pad", "image_pad", "vision_start", "vision_end")
    video, image, start, end = tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, SIZES[size].text, {"mrope_section": [16, 8, 8]}),
        vision_config=vision,
        video_token_id=video,
        image_token_id=image,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    return VideoLM(Qwen2_5_VLForConditionalGeneration(config), processor)


def _llava_onevision(tokenizer: Any, size: str) -> VideoLM:
    """About 3.3 M parameters: a layer more in the language model, which has to put two frames together."""
    if size != "small":
        raise ValueError(f"size {size!r}: llava_onevision has one size, small")
    import transformers as t

    side = {"height": VIEW, "width": VIEW}
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=[[VIEW, VIEW]]),
        tokenizer,
        t.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=(VIEW // 16) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        video_token=VIDEO,
    )
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": VIEW,
        "patch_size": 16,
        "vision_use_head": False,
    }
    config = t.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer, (192, 512, 5), {})},
        vision_config=vision,
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[VIEW, VIEW]],
        tie_word_embeddings=True,
    )
    return VideoLM(t.LlavaOnevisionForConditionalGeneration(config), processor)


ARCHITECTURES: dict[str, Callable[[Any, str], VideoLM]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "llava_onevision": _llava_onevision,
}
