"""Tiny random models of real architectures, and groups of made-up tokens and pixels for them."""

from __future__ import annotations

import torch

from tempo.model.attention import register_shared_prefix
from tempo.model.loading import repair_torchvision, use_shared_prefix
from tempo.model.prefix import Continuation, Group

VIDEO, START, END = 90, 91, 92

TEXT = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def make_model(family: str, *, seed: int = 0):
    """A float32 model of a family, with shared-prefix attention."""
    repair_torchvision()
    register_shared_prefix()
    torch.manual_seed(seed)
    model = MODELS[family]().float().eval()
    for parameter in model.parameters():
        # The default initialisation is so small that wrong attention would hardly show.
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    use_shared_prefix(model)
    return model


def make_group(family: str, *, num_steps: int, lengths: list[int], context: int = 0, seed: int = 1) -> Group:
    """A group whose video has `num_steps` time steps and whose continuations have the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    inputs = VIDEOS[family](num_steps, generator)

    def words(count):
        return torch.randint(3, 80, (count,), generator=generator)

    video_tokens = inputs.pop("num_video_tokens")
    # Qwen3-VL writes a time stamp before each step of the video; the others write the video in one piece.
    steps = num_steps if family == "qwen3_vl" else 1
    step = [words(2), torch.tensor([START]), torch.full((video_tokens // steps,), VIDEO), torch.tensor([END])]
    ids = torch.cat([*step * steps, words(4)])[None]
    inputs["input_ids"] = ids
    inputs["attention_mask"] = torch.ones_like(ids)
    if family in WITH_TOKEN_TYPES:
        inputs["mm_token_type_ids"] = torch.where(ids == VIDEO, 2, 0)
    answers = tuple(Continuation(tuple(words(length).tolist()), context) for length in lengths)
    return Group(inputs, answers)


def text_group(*, lengths: list[int], seed: int = 2) -> Group:
    """A group without a video."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 80, (1, 7), generator=generator)
    answers = [torch.randint(3, 80, (n,), generator=generator).tolist() for n in lengths]
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    return Group(inputs, tuple(Continuation(tuple(answer)) for answer in answers))


def _qwen():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        **TEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 48,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        video_token_id=VIDEO,
        image_token_id=93,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen_video(num_steps, generator):
    grid = torch.tensor([[num_steps, 4, 6]])
    pixels = torch.randn(int(grid.prod()), 3 * 2 * 4 * 4, generator=generator)
    return {
        "pixel_values_videos": pixels,
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.tensor([1.0]),
        "num_video_tokens": int(grid.prod()) // 4,
    }


def _llava():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "vision_use_head": False,
    }
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        video_token_index=VIDEO,
        image_token_index=93,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[16, 16]],
        tie_word_embeddings=False,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def _llava_video(num_steps, generator):
    # 4 x 4 patches pooled to 2 x 2 a frame, and one newline token for the video.
    pixels = torch.randn(1, num_steps, 3, 16, 16, generator=generator)
    return {"pixel_values_videos": pixels, "num_video_tokens": 4 * num_steps + 1}


def _qwen2():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {
        **TEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
    }
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": 48,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **SPECIAL)
    return Qwen2VLForConditionalGeneration(config)


def _qwen3():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 48,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**TEXT, "head_dim": 12, "rope_parameters": rope}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL))


def _internvl():
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [4, 4],
    }
    text = {"model_type": "qwen2", **TEXT}
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=VIDEO,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
    )
    return InternVLForConditionalGeneration(config)


def _internvl_video(num_steps, generator):
    # A video is as many images; 4 x 4 patches of each are shuffled to 2 x 2 tokens.
    pixels = torch.randn(num_steps, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "num_video_tokens": 4 * num_steps}


SPECIAL = {
    "video_token_id": VIDEO,
    "image_token_id": 93,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": False,
}
MODELS = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen3,
    "llava_onevision": _llava,
    "internvl": _internvl,
}


def _qwen3_video(num_steps, generator):
    video = _qwen_video(num_steps, generator)
    del video["second_per_grid_ts"]
    return video


VIDEOS = {
    "qwen2_vl": _qwen3_video,
    "qwen2_5_vl": _qwen_video,
    "qwen3_vl": _qwen3_video,
    "llava_onevision": _llava_video,
    "internvl": _internvl_video,
}
WITH_TOKEN_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
