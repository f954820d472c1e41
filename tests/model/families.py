"""The families of docs/models.md: tiny random models, and inputs of their own processors or made by hand.

Frames are 2 x 3 tokens, so positions that are wrong for more than three time steps show.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tempo.model.chat import Prefix, VideoLM
from tempo.model.loading import repair_torchvision
from tempo.model.prefix import ContinuationTokens, Group
from tempo.model.support import use_shared_prefix

# Before the first class of transformers that needs torchvision is looked up.
repair_torchvision()

#: Words of the small vocabulary are numbers; any other word is unknown. Special words follow from START on.
WORDS = range(3, 80)
VOCABULARY = 100
START, END, VIDEO, IMAGE, FRAME_START = 81, 82, 83, 84, 86
HEIGHT, WIDTH = 2, 3
TOKENS = HEIGHT * WIDTH
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}VIDEO{% else %} {{ part['text'] }} {% endif %}{% endfor %}"
    "<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> {% endif %}"
)
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"

TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": None,
}  # fmt: skip
QWEN_TEXT = TEXT | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
WIDE = QWEN_VISION | {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48}
IDS = {
    "video_token_id": VIDEO, "image_token_id": IMAGE, "vision_start_token_id": START,
    "vision_end_token_id": END, "tie_word_embeddings": False,
}  # fmt: skip
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP |= {"patch_size": 4}

GLM_IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": START,
    "image_end_token_id": END, "video_start_token_id": FRAME_START, "video_end_token_id": 87,
}  # fmt: skip
LLAMA = {"model_type": "llama", **TEXT}
QWEN_WINDOWS = WIDE | {"window_size": 16, "fullatt_block_indexes": [1]}
MROPE = QWEN_TEXT["rope_parameters"]
MOE = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


QWEN3_VISION = {**WIDE, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
QWEN3_5_TEXT = QWEN_TEXT | {
    "head_dim": 12, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": MROPE | {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
}  # fmt: skip
GLM_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4, "image_size": 32,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48,
}  # fmt: skip
GLM_TEXT = QWEN_TEXT | {"head_dim": 12, "rope_parameters": MROPE | {"partial_rotary_factor": 1.0}}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
MUSE = {
    "text_config": TEXT | WINDOWS | {"head_dim": 12, "hidden_activation": "silu"},
    "vision_config": {
        "patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8, "num_attention_heads": 2,
        "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64,
    },
    "video_token_id": VIDEO, "image_token_id": IMAGE, "out_hidden_size": 128, "projector_hidden_size": 48,
}  # fmt: skip
GEMMA_TEXT = TEXT | WINDOWS | {
    "head_dim": 12, "global_head_dim": 12, "use_bidirectional_attention": "vision",
    "final_logit_softcapping": 3.0, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": TEXT["vocab_size"],
}  # fmt: skip
GEMMA_IDS = {
    "video_token_id": VIDEO,
    "image_token_id": IMAGE,
    "audio_token_id": 88,
    "tie_word_embeddings": False,
}
VIT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "patch_size": 4, "image_size": 16, "projection_dim": 32,
}  # fmt: skip
AUDIO = {
    "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 48,
    "num_mel_bins": 8, "downsample_hidden_size": 4,
}  # fmt: skip


def text_ids(generator, count):
    return generator.integers(3, 80, count).tolist()


def noise(generator, *shape):
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def typed(ids, media, *names, kind=2):
    """The ids as inputs, with `kind` at the tokens `media` and 0 elsewhere under each of the names."""
    row = torch.tensor([ids])
    types = kind * torch.isin(row, torch.tensor(media)).long()
    return {"input_ids": row, "attention_mask": torch.ones_like(row), **dict.fromkeys(names, types)}


def grid(
    generator,
    steps,
    *,
    token=VIDEO,
    frames=2,
    merge=1,
    split=False,
    types=("mm_token_type_ids",),
    patch=(),
    **more,
):
    """Patches with `video_grid_thw`, as Qwen's families take them.

    A patch holds `frames` frames, a time step `merge` patches. `split` puts text between the frames.
    """
    frame = [START, *[token] * TOKENS, END]
    between = [word for _ in range(steps) for word in (*text_ids(generator, 2), *frame)]
    video = between if split else [START, *[token] * (steps * TOKENS), END]
    ids = [*text_ids(generator, 3), *video, *text_ids(generator, 4)]
    return {
        **typed(ids, [token], *types),
        "pixel_values_videos": noise(generator, steps * merge * 4 * TOKENS, *(patch or [48 * frames])),
        "video_grid_thw": torch.tensor([[steps * merge, 2 * HEIGHT, 2 * WIDTH]]),
        **more,
    }


def frames_of(generator, steps, *, tokens, size, types=(), token=VIDEO):
    """Whole frames [1, T, 3, H, W], as LLaVA's families take them."""
    ids = [*text_ids(generator, 3), *[token] * (steps * tokens), *text_ids(generator, 4)]
    return {**typed(ids, [token], *types), "pixel_values_videos": noise(generator, 1, steps, 3, *size)}


def molmo(generator, steps):
    """Square frames of 2 x 2 tokens."""
    ids = [*text_ids(generator, 3)]
    for _ in range(steps):
        ids += [FRAME_START, *[VIDEO] * 4, 87]
    patches = torch.arange(steps * 16).reshape(steps, 2, 2, 2, 2).transpose(2, 3)
    return {
        **typed([*ids, *text_ids(generator, 4)], [VIDEO], "mm_token_type_ids", kind=1),
        "pixel_values_videos": noise(generator, steps, 16, 48),
        "video_token_pooling": patches.reshape(-1, 4),
        "video_grids": torch.tensor([[steps, 2, 2]]),
    }


def gemma(generator, steps, *, patches, pixels):
    ids = [*text_ids(generator, 3)]
    for _ in range(steps):
        ids += [*text_ids(generator, 2), *[VIDEO] * TOKENS]
    side = round((patches // TOKENS) ** 0.5)
    places = torch.cartesian_prod(torch.arange(side * HEIGHT), torch.arange(side * WIDTH)).flip(-1)
    return {
        **typed([*ids, *text_ids(generator, 4)], [VIDEO], "mm_token_type_ids"),
        "pixel_values_videos": noise(generator, steps, patches, pixels),
        "video_position_ids": places.expand(steps, -1, -1),
        "num_frames_per_video": torch.tensor([steps]),
    }


def minicpm(generator, steps, side=4):
    """All frames packed into one row of patches, `side` x `side` patches to a token."""
    video = [word for _ in range(steps) for word in (START, *[VIDEO] * TOKENS, END)]
    return {
        **typed([*text_ids(generator, 3), *video, *text_ids(generator, 4)], [VIDEO], "mm_token_type_ids"),
        "pixel_values_videos": noise(generator, 1, 3, 4, steps * side**2 * TOKENS * 4),
        "target_sizes_videos": torch.tensor([[side * HEIGHT, side * WIDTH]] * steps),
    }


qwen3, glm = functools.partial(grid, split=True), functools.partial(grid, split=True, token=IMAGE)
omni = functools.partial(grid, types=(), video_second_per_grid=torch.tensor([1.5]))


def chunks(generator, steps):
    """Kimi's chunks of one frame: transformers 5.23 fails for longer ones."""
    inputs = qwen3(generator, steps, patch=(3, 4, 4))
    return inputs | {"video_grid_thw": torch.tensor([[1, 2 * HEIGHT, 2 * WIDTH]] * steps)}


#: Per family: the name of its classes, its configuration, and what makes its inputs by hand, if needed.
MODELS = {
    "qwen2_vl": (
        "Qwen2VL",
        {"text_config": QWEN_TEXT, **IDS,
         "vision_config": QWEN_VISION | {"embed_dim": 32, "mlp_ratio": 2, "hidden_size": 48}},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"text_config": QWEN_TEXT, **IDS,
         "vision_config": QWEN_WINDOWS | {"tokens_per_second": 2}},
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {"text_config": QWEN_TEXT | {"head_dim": 12, "rope_parameters": MROPE | {"mrope_interleaved": True}},
         "vision_config": QWEN3_VISION, **IDS},
    ),
    "llava_onevision": (
        "LlavaOnevision",
        {"text_config": {"model_type": "qwen2", **TEXT},
         "vision_config": SIGLIP | {
             "model_type": "siglip_vision_model", "image_size": 16, "vision_use_head": False},
         "video_token_index": VIDEO, "image_token_index": IMAGE,
         "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "image_grid_pinpoints": [[16, 16]], "tie_word_embeddings": False},
    ),
    "internvl": (
        "InternVL",
        {"text_config": {"model_type": "qwen2", **TEXT},
         "vision_config": SIGLIP | {"image_size": [16, 16], "patch_size": [4, 4]},
         "image_token_id": IMAGE, "downsample_ratio": 0.5, "vision_feature_layer": -1},
    ),
    "smolvlm": (
        "SmolVLM",
        {"text_config": {"model_type": "llama", **TEXT}, "vision_config": SIGLIP | {"image_size": 16},
         "image_token_id": IMAGE, "scale_factor": 2, "tie_word_embeddings": False},
    ),
    "video_llama_3": (
        "VideoLlama3",
        {"text_config": {"model_type": "qwen2", **TEXT}, "vision_config": SIGLIP,
         "video_token_id": VIDEO, "image_token_id": IMAGE},
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        {"text_config": QWEN_TEXT | MOE | {"head_dim": 12}, "vision_config": QWEN3_VISION, **IDS}, qwen3,
    ),
    "cosmos3_omni": (
        "Cosmos3Omni",
        {"text_config": QWEN_TEXT | {"head_dim": 12}, "vision_config": QWEN3_VISION, **IDS}, qwen3,
    ),
    "glm4v": (
        "Glm4v",
        {"text_config": GLM_TEXT, "vision_config": GLM_VISION, **GLM_IDS}, glm,
    ),
    "glm46v": (
        "Glm46V",
        {"text_config": {"model_type": "glm4v_text", **GLM_TEXT},
         "vision_config": {"model_type": "glm4v_vision", **GLM_VISION}, **GLM_IDS}, glm,
    ),
    "glm4v_moe": (
        "Glm4vMoe",
        {"text_config": GLM_TEXT | MOE | {"n_routed_experts": 4, "first_k_dense_replace": 1},
         "vision_config": GLM_VISION, **GLM_IDS}, glm,
    ),
    "glm_ocr": (
        "GlmOcr",
        {"text_config": GLM_TEXT, "vision_config": GLM_VISION, **GLM_IDS}, glm,
    ),
    "cosmos3_edge": (
        "Cosmos3Edge",
        {"text_config": TEXT | {"head_dim": 12, "rope_parameters": MROPE},
         "vision_config": SIGLIP | {"num_patches": 64, "spatial_merge_size": 2}, **IDS,
         "projector_hidden_size": 32}, functools.partial(qwen3, frames=1),
    ),
    "kimi_k25": (
        "Kimi_K25",
        {"text_config": {"model_type": "qwen2", **TEXT},
         "vision_config": {
             "patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8, "num_attention_heads": 2,
             "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48},
         "projection_hidden_size": 32, "tie_word_embeddings": False, **IDS}, chunks,
    ),
    "llava_next_video": (
        "LlavaNextVideo",
        {"text_config": LLAMA, "vision_config": {"model_type": "clip_vision_model", **VIT},
         "video_token_index": VIDEO, "image_token_index": IMAGE, "image_grid_pinpoints": [[16, 16]]},
        functools.partial(frames_of, tokens=4, size=(16, 16)),
    ),
    "video_llava": (
        "VideoLlava",
        {"text_config": LLAMA, "vision_config": {"model_type": "clip_vision_model", **VIT},
         "video_token_index": VIDEO, "image_token_index": IMAGE},
        functools.partial(frames_of, tokens=17, size=(16, 16)),
    ),
    "hyperclovax_vision_v2": (
        "HyperCLOVAXVisionV2",
        {"text_config": {"model_type": "hyperclovax", **TEXT},
         "vision_config": {"model_type": "qwen2_5_vl_vision", **QWEN_WINDOWS},
         "video_token_id": VIDEO, "image_token_id": IMAGE, "tie_word_embeddings": False}, grid,
    ),
    "minimax_m3_vl": (
        "MiniMaxM3Sparse",
        {"text_config": TEXT | {
            "head_dim": 12, "rotary_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2,
            "dense_intermediate_size": 32, "shared_intermediate_size": 16,
            "layer_types": ["full_attention", "full_attention"]},
         "vision_config": SIGLIP | {"temporal_patch_size": 2, "spatial_merge_size": 2, "image_size": 32},
         "video_token_index": VIDEO, "image_token_index": IMAGE, "projector_hidden_size": 48}, grid,
    ),
    "ernie4_5_vl_moe": (
        "Ernie4_5_VLMoe",
        {"text_config": QWEN_TEXT | {
            "moe_intermediate_size": [16, 12], "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1,
            "mlp_layer_types": ["dense", "sparse"]},
         "vision_config": {
             "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
             "spatial_merge_size": 2, "temporal_merge_size": 2},
         "video_token_id": VIDEO, "image_token_id": IMAGE, "tie_word_embeddings": False},
        functools.partial(grid, frames=1, merge=2, types=("mm_token_type_ids", "moe_mm_token_type_ids")),
    ),
    "molmo2": (
        "Molmo2",
        {"text_config": TEXT | {"head_dim": 12, "additional_vocab_size": 8},
         "vision_config": VIT | {"image_size": [16, 16], "num_key_value_heads": 2, "head_dim": 16},
         "adapter_config": {
             "vision_feature_layer": [-1, -2], "hidden_size": 32, "num_attention_heads": 2,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32, "text_hidden_size": 48},
         "image_patch_id": VIDEO}, molmo,
    ),
    "qwen2_5_omni": (
        "Qwen2_5OmniThinker",
        {"text_config": QWEN_TEXT, "audio_config": AUDIO,
         "vision_config": QWEN_WINDOWS,
         "video_token_index": VIDEO, "image_token_index": IMAGE, "audio_token_index": 88,
         "vision_start_token_id": START}, omni,
    ),
    "qwen3_omni_moe": (
        "Qwen3OmniMoeThinker",
        {"text_config": QWEN_TEXT | MOE | {"head_dim": 12}, "audio_config": AUDIO,
         "vision_config": QWEN3_VISION, **IDS, "audio_token_id": 88}, omni,
    ),
    "perception_lm": (
        "PerceptionLM",
        {"text_config": LLAMA,
         # SigLIP in place of the Perception Encoder, which needs timm.
         "vision_config": {
             **SIGLIP, "model_type": "siglip_vision_model", "image_size": 16, "vision_use_head": False,
             "model_args": {"embed_dim": 32}},
         "vision_use_cls_token": False, "projector_pooling_ratio": 2, "tie_word_embeddings": False,
         "video_token_id": VIDEO, "image_token_id": IMAGE},
        functools.partial(frames_of, tokens=4, size=(16, 16)),
    ),
    "exaone4_5": (
        "Exaone4_5_",
        {"text_config": {"model_type": "exaone4", **TEXT, **WINDOWS},
         "vision_config": QWEN_WINDOWS | {"num_key_value_heads": 2},
         "video_token_id": VIDEO, "image_token_id": IMAGE}, grid,
    ),
    "cohere_compass": (
        "CohereCompass",
        {"text_config": TEXT | WINDOWS | {
            "logit_scale": 0.25, "rope_parameters": dict.fromkeys(WINDOWS["layer_types"], MROPE)},
         "vision_config": QWEN3_VISION, **IDS}, qwen3,
    ),
    "muse_glimmer": ("MuseGlimmer", MUSE, grid),
    "muse_spark": (
        "MuseSpark",
        MUSE | {"text_config": MUSE["text_config"] | {
            "moe_intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
            "moe_hidden_size": 16, "mlp_layer_types": ["dense", "sparse"]},
         "audio_config": {"out_hidden_size": 48, "hidden_sizes": [8] * 4, "depths": [1] * 4},
         "audio_token_id": 88}, grid,
    ),
    "gemma4": (
        "Gemma4",
        {"text_config": GEMMA_TEXT,
         "vision_config": SIGLIP | {
             "num_key_value_heads": 2, "head_dim": 16, "pooling_kernel_size": 2,
             "position_embedding_size": 256},
         **GEMMA_IDS}, functools.partial(gemma, patches=4 * TOKENS, pixels=48),
    ),
    "gemma4_unified": (
        "Gemma4Unified",
        {"text_config": GEMMA_TEXT,
         "vision_config": {
             "patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 16,
             "output_proj_dims": 32}, **GEMMA_IDS}, functools.partial(gemma, patches=TOKENS, pixels=3 * 8**2),
    ),
    "qwen3_5": (
        "Qwen3_5",
        {"text_config": QWEN3_5_TEXT, "vision_config": WIDE | {"num_position_embeddings": 64}, **IDS}, qwen3,
    ),
    "qwen3_5_moe": (
        "Qwen3_5Moe",
        {"text_config": QWEN3_5_TEXT | MOE | {"shared_expert_intermediate_size": 16},
         "vision_config": WIDE | {"num_position_embeddings": 64}, **IDS}, qwen3,
    ),
    "minicpmv4_6": (
        "MiniCPMV4_6",
        {"text_config": {"model_type": "qwen3_5_text", **QWEN3_5_TEXT},
         "vision_config": SIGLIP | {"image_size": 64, "insert_layer_id": 0}, "insert_layer_id": 0,
         "video_token_id": VIDEO, "image_token_id": IMAGE}, minicpm,
    ),
    "minicpmv4_7": (
        "MiniCPMV4_7",
        {"text_config": {"model_type": "qwen3_5_text", **QWEN3_5_TEXT},
         "vision_config": SIGLIP | {"image_size": 64, "insert_layer_id": 0}, "insert_layer_id": 0,
         "video_token_id": VIDEO, "image_token_id": IMAGE, "image_start_id": START, "image_end_id": END,
         "slice_start_id": 87, "slice_end_id": 88, "newline_id": 5}, minicpm,
    ),
    "minicpm_ocr": (
        "MiniCPMOcr",
        {"text_config": {"model_type": "qwen3_5_text", **QWEN3_5_TEXT},
         "vision_config": SIGLIP | {"image_size": 64}, "video_token_id": VIDEO, "image_token_id": IMAGE},
        functools.partial(minicpm, side=2),
    ),
    "lfm3_vl": (
        "Lfm3Vl",
        {"text_config": {
            "model_type": "lfm3", **TEXT, "head_dim": 12, "sliding_window": 8, "num_hidden_layers": 3,
            "conv_L_cache": 3, "layer_types": ["conv", "sliding_attention", "full_attention"]},
         "vision_config": {
             "hidden_size": 32, "intermediate_size": 48, "patch_size": 4, "num_hidden_layers": 3,
             "num_attention_heads": 2, "num_key_value_heads": 2},
         **IDS, "projector_hidden_size": 48, "tie_word_embeddings": False}, grid,
    ),
}  # fmt: skip
#: The seven families that every test of a mechanism runs.
FAMILIES = sorted(family for family, row in MODELS.items() if len(row) == 2)

PATCHES = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 10**6}}
FINE = PATCHES | {"cap_pixels_per_frame": False}
SQUARE = {"size": {"height": 16, "width": 16}}
EDGES = {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}}
PAIRS = PATCHES | {"temporal_patch_size": 2, "size": {"shortest_edge": 64, "longest_edge": 4096}}
CAPPED = PAIRS | {"cap_pixels_per_frame": False}
CROPS = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
CLIP = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
SOFT = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}
POOLS = {"size": {"height": 16, "width": 16}, "patch_size": 4, "pooling_size": [2, 2]}
SLICES = {"patch_size": 4, "scale_resolution": 32}
QWEN_WORDS = "vision_start=<|vision_start|> vision_end=<|vision_end|> video=<|video_pad|> image=<|image_pad|>"
#: Per family: the names of processor, image processor and video processor, the options
#: of image processor, video processor and processor, the special words with the ids from 81 on, and how the
#: chat template writes a video.
PROCESSORS = {
    "qwen3_5": ("Qwen3VL", "Qwen2VL", "Qwen3VL", PAIRS, CAPPED, {}, QWEN_WORDS, QWEN_VIDEO),
    "lfm3_vl": ("Lfm3Vl", "Qwen2VL", "Qwen3VL", PAIRS, CAPPED, {}, QWEN_WORDS, "<|video_pad|>"),
    "exaone4_5": ("Exaone4_5_", "Qwen2VL", "Qwen2VL", PAIRS, CAPPED, {}, QWEN_WORDS, "<|video_pad|>"),
    "hyperclovax_vision_v2": (
        "HyperCLOVAXVisionV2", "Qwen2VL", "Qwen2VL", PAIRS, CAPPED, {}, QWEN_WORDS, "<|video_pad|>"),
    "cosmos3_edge": (
        "Cosmos3Edge", "Cosmos3Edge", "Cosmos3Edge",
        {"patch_size": 4, "max_num_patches": 64}, {"patch_size": 4}, {}, QWEN_WORDS, QWEN_VIDEO),
    "cohere_compass": (
        "CohereCompass", "Qwen2VL", "CohereCompass", PAIRS, PAIRS, {},
        "a=<|VISION_START|> b=<|VISION_END|> video=<|VIDEO_PAD|> image=<|IMAGE_PAD|>",
        "<|VISION_START|><|VIDEO_PAD|><|VISION_END|>"),
    "gemma4": (
        "Gemma4", "Gemma4", "Gemma4", SOFT, SOFT, {"feature_extractor": "Gemma4Audio"},
        "boi=<boi> eoi=<eoi> video=<|video|> image=<img> audio=<aud> boa=<boa> eoa=<eoa>", "<|video|>"),
    "molmo2": (
        "Molmo2", "Molmo2", "Molmo2", POOLS, POOLS, {},
        "a=<im_start> b=<im_end> patch=<im_patch> image=<|image|> c=<low_res_im_start> d=<frame_start> "
        "e=<frame_end> video=<|video|> f=<im_col> g=<im_low>", "<|video|>"),
    "minicpmv4_6": (
        "MiniCPMV4_6", "MiniCPMV4_6", "MiniCPMV4_6", SLICES, SLICES, {},
        "image_start=<image> image_end=</image> video=<vid> image=<img> slice_start=<slice> "
        "slice_end=</slice> image_id_start=<image_id> image_id_end=</image_id>", "<vid>"),
    "ernie4_5_vl_moe": (
        "Ernie4_5_VLMoe", "Ernie4_5_VLMoe", "Ernie4_5_VLMoe",
        PATCHES, PAIRS | {"draw_on_frames": False}, {},
        "video_start=<vs> video_end=<ve> video=<v> image=<i> image_start=<is> image_end=<ie>", "<vs><v><ve>"),
    "muse_glimmer": (
        "MuseGlimmer", "MuseGlimmer", "MuseGlimmer", SLICES | {"merge_size": 2}, PAIRS, {},
        "a=<|image_start|> b=<|image_end|> c=<|video|> d=<|patch|> e=<|vid_frame_separator|> f=<|vid_start|> "
        "g=<|vid_end|>", "<|video|>"),
    "perception_lm": (
        "PerceptionLM", "PerceptionLM", "PerceptionLM", {"tile_size": 16}, POOLS, {"patch_size": 4},
        "a=<s> b=<e> video=<v> image=<i>", "<v>"),
    "glm4v": (
        "Glm4v", "Glm4v", "Glm4v", PAIRS, PAIRS, {},
        "a=<|begin_of_image|> b=<|end_of_image|> video=<|video|> image=<|image|> c=<|begin_of_video|> "
        "d=<|end_of_video|>", "<|begin_of_video|><|video|><|end_of_video|>"),
    "kimi_k25": (
        "Kimi_K25", "Kimi_K25", "Kimi_K25", {"patch_size": 4}, {"patch_size": 4}, {},
        "a=<s> b=<e> video=<|video_pad|> image=<|image_pad|> c=<|media_content|> d=<|media_begin|> "
        "e=<|media_end|> f=<|kimi_k25_video_placeholder|>", "<|video_pad|>"),
    "minimax_m3_vl": (
        "MiniMaxM3VL", "MiniMaxM3VL", "MiniMaxM3VL",
        {"patch_size": 4}, {"patch_size": 4, "min_pixels": 64, "max_pixels": 2048}, {},
        "a=]<]start_of_image[>[ b=]<]end_of_image[>[ video=]<]video[>[ image=]<]image[>[", "]<]video[>["),
    "video_llava": (
        "VideoLlava", "VideoLlava", "VideoLlava", CROPS, CROPS, CLIP,
        "a=<s> b=<e> video=<video> image=<image>", "<video>"),
    "llava_next_video": (
        "LlavaNextVideo", "LlavaNext", "LlavaNextVideo", CROPS, CROPS, CLIP,
        "a=<s> b=<e> video=<video> image=<image>", "<video>"),
    "qwen2_vl": ("Qwen2VL", "Qwen2VL", "Qwen2VL", PATCHES, FINE, {}, QWEN_WORDS, QWEN_VIDEO),
    "qwen2_5_vl": ("Qwen2_5_VL", "Qwen2VL", "Qwen2VL", PATCHES, FINE, {}, QWEN_WORDS, QWEN_VIDEO),
    "qwen3_vl": ("Qwen3VL", "Qwen2VL", "Qwen3VL", PATCHES, FINE, {}, QWEN_WORDS, QWEN_VIDEO),
    "llava_onevision": (
        "LlavaOnevision", "LlavaOnevision", "LlavaOnevision", SQUARE, SQUARE,
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        "a=<s> b=<e> video=<video> image=<image>", "<video>"),
    "internvl": (
        "InternVL", "GotOcr2", "InternVL", SQUARE, SQUARE, {"image_seq_length": 4},
        "start_image=<img> end_image=</img> video=<video> context_image=<IMG_CONTEXT>", "<video>"),
    "smolvlm": (
        "SmolVLM", "SmolVLM", "SmolVLM", EDGES, EDGES, {"image_seq_len": 4},
        "a=<fake_token_around_image> b=<global-img> video=<video> image=<image> c=<end_of_utterance>",
        "<video>"),
    "video_llama_3": (
        "VideoLlama3", "VideoLlama3", "VideoLlama3", PATCHES, PATCHES, {}, QWEN_WORDS, "<|video_pad|>"),
}  # fmt: skip


def make_model(family: str, *, seed: int = 0, attention: bool = True, **changes):
    """A float32 model, with shared-prefix attention if `attention`; `changes` are of its language model."""
    name, settings, *_ = MODELS[family]
    torch.manual_seed(seed)
    make = getattr(transformers, f"{name}ForConditionalGeneration")
    model = make(make.config_class(**settings | {"text_config": settings["text_config"] | changes}))
    model = model.float().eval()
    for parameter in model.parameters():
        # With the default initialisation, which is small, wrong attention would hardly show.
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.ndim == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    if attention:
        use_shared_prefix(model)
    return model


@functools.cache
def make_processor(family: str, *, bytes_: bool = False):
    """The processor of a small model. Its tokenizer knows numbers only, or all text with `bytes_`."""
    name, images, videos, image_options, video_options, options, words, placeholder = PROCESSORS[family]
    if "feature_extractor" in options:
        made = getattr(transformers, f"{options['feature_extractor']}FeatureExtractor")()
        options = {"feature_extractor": made}
    template = CHAT_TEMPLATE.replace("VIDEO", placeholder)
    tokenizer = make_tokenizer(words, bytes_=bytes_)
    tokenizer.chat_template = template
    return getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{images}ImageProcessor")(**image_options),
        video_processor=getattr(transformers, f"{videos}VideoProcessor")(**video_options),
        tokenizer=tokenizer,
        chat_template=template,
        **options,
    )


def make_tokenizer(words: str, *, bytes_: bool = False):
    """A tokenizer of the small vocabulary, or a byte-level one that sees white space.

    Each of the special `words` is written as ROLE=WORD; in the small vocabulary their ids start with START.
    """
    roles = dict(word.split("=") for word in words.split())
    special = {"<|im_start|>": START - 1} | {word: START + n for n, word in enumerate(roles.values())}
    if bytes_:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<|endoftext|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(["assistant\nuser:\n\n A red wall. In the end, red"] * 9, trainer)
    else:
        vocabulary = {"<unk>": 0, "<|endoftext|>": 1, "<|im_end|>": 2, **{str(n): n for n in WORDS}}
        backend = Tokenizer(models.WordLevel(vocabulary | special, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([*special])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={f"{role}_token": word for role, word in roles.items()},
    )


def make_lm(family: str, **options) -> VideoLM:
    """The model with its processor, as `load_model` returns it."""
    return VideoLM(make_model(family, **options), make_processor(family))


def make_frames(family: str, num_steps: int, generator: np.random.Generator) -> np.ndarray:
    """Random frames [T, 16, 24, 3], uint8; their upper half is static, which VideoLLaMA3 compresses."""
    # The Qwen families merge two frames into one time step.
    count = 2 * num_steps if family.startswith("qwen") else num_steps
    frames = generator.integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)
    frames[:, :8] = frames[:1, :8]
    return frames


def make_group(family: str, *, num_steps: int, lengths: list[int], context: int = 0, seed: int = 1) -> Group:
    """A group of random words. Its video has `num_steps` time steps, its continuations the given lengths.

    Without time steps it has no video. The first `context` tokens of a continuation are not scored.
    """
    generator = np.random.default_rng(seed)
    if make := MODELS[family][2:]:
        inputs = make[0](generator, num_steps)
    else:
        lm = VideoLM(None, make_processor(family))
        text = lm.template.render(" ".join(map(str, text_ids(generator, 4))), with_video=num_steps > 0)
        frames = make_frames(family, num_steps, generator) if num_steps else None
        inputs = lm.inputs([text], [Prefix(frames, "")])
    return Group(inputs, tuple(ContinuationTokens(tuple(text_ids(generator, n)), context) for n in lengths))


def dpo_loss(policy, reference, beta=0.5):
    """The sum over all pairs; the first answer of each group is the chosen one."""
    total = 0.0
    for own, other in zip(policy, reference, strict=True):
        chosen, *rejected = [a.sum() - b.sum() for a, b in zip(own, other, strict=True)]
        total = total - torch.nn.functional.logsigmoid(beta * (chosen - torch.stack(rejected))).sum()
    return total


def step(compute, model, loss, groups):
    """Log-probabilities, loss, and all gradients by name, which are taken from the model."""
    logps = compute(model, groups)
    value = loss(logps)
    value.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return torch.cat([logp for row in logps for logp in row]).detach(), value.detach(), gradients


def assert_same(ours, theirs):
    """Two steps are equal but for rounding."""
    assert ours[2].keys() == theirs[2].keys()
    flat = [torch.cat([found[2][name].flatten() for name in theirs[2]]) for found in (ours, theirs)]
    for one, other in ((ours[0], theirs[0]), (ours[1], theirs[1]), flat):
        assert float((one - other).norm() / other.norm()) <= 1e-5
