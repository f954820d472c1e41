"""Tiny random models of real architectures, and groups that their own processors make of random frames."""

from __future__ import annotations

import numpy as np
import torch
from processors import PLACEHOLDERS, SPECIAL, WORDS, make_processor

from tempo.model.attention import register_shared_prefix
from tempo.model.loading import VideoLM, repair_torchvision, tensors, use_shared_prefix
from tempo.model.prefix import Continuation, Group

FAMILIES = sorted(PLACEHOLDERS)
VOCABULARY = 100

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "bos_token_id": None,
}


def make_model(family: str, *, seed: int = 0):
    """A float32 model of a family, with shared-prefix attention."""
    model = make_plain_model(family, seed=seed)
    use_shared_prefix(model)
    return model


def make_plain_model(family: str, *, seed: int = 0):
    """The same as transformers makes it."""
    repair_torchvision()
    register_shared_prefix()
    torch.manual_seed(seed)
    model = MODELS[family]().float().eval()
    for parameter in model.parameters():
        # The default initialisation is so small that wrong attention would hardly show.
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def make_lm(family: str) -> VideoLM:
    """The model with its processor, as `load_video_lm` returns it."""
    return VideoLM(make_model(family), make_processor(family))


def make_group(family: str, *, num_steps: int, lengths: list[int], context: int = 0, seed: int = 1) -> Group:
    """A group whose video has `num_steps` time steps and whose continuations have the given lengths."""
    repair_torchvision()
    generator = np.random.default_rng(seed)
    lm = VideoLM(None, make_processor(family))
    prompt = " ".join(str(word) for word in generator.choice(WORDS, 4))
    text = lm.prompt_text(prompt, with_video=True)
    inputs = tensors(lm.inputs(text, make_frames(family, num_steps, generator), fps=1.0))
    return Group(inputs, _answers(lengths, context, generator))


def make_frames(family: str, num_steps: int, generator: np.random.Generator) -> np.ndarray:
    """Random frames [T, 16, 24, 3], uint8; their upper half stands still, which VideoLLaMA3 compresses."""
    # The Qwen families look at two frames in one time step.
    count = 2 * num_steps if family.startswith("qwen") else num_steps
    frames = generator.integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)
    frames[:, :8] = frames[:1, :8]
    return frames


def text_group(*, lengths: list[int], seed: int = 2) -> Group:
    """A group without a video."""
    generator = np.random.default_rng(seed)
    ids = torch.from_numpy(generator.choice(WORDS, (1, 7)))
    return Group(
        {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}, _answers(lengths, 0, generator)
    )


def _answers(lengths, context, generator):
    return tuple(Continuation(tuple(generator.choice(WORDS, n).tolist()), context) for n in lengths)


_QWEN_VISION = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN_TOKENS = {
    "video_token_id": SPECIAL["<|video_pad|>"],
    "image_token_id": SPECIAL["<|image_pad|>"],
    "vision_start_token_id": SPECIAL["<|vision_start|>"],
    "vision_end_token_id": SPECIAL["<|vision_end|>"],
    "tie_word_embeddings": False,
}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
_SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}


def _qwen2():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = _QWEN_VISION | {"embed_dim": 32, "mlp_ratio": 2, "hidden_size": 48}
    text = TEXT | {"rope_parameters": _MROPE}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)
    )


def _qwen2_5():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = _QWEN_VISION | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    text = TEXT | {"rope_parameters": _MROPE}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)
    )


def _qwen3():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = _QWEN_VISION | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = TEXT | {"head_dim": 12, "rope_parameters": _MROPE | {"mrope_interleaved": True}}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)
    )


def _llava():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    vision = _SIGLIP | {"model_type": "siglip_vision_model", "image_size": 16, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        video_token_index=SPECIAL["<video>"],
        image_token_index=SPECIAL["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[16, 16]],
        tie_word_embeddings=False,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def _internvl():
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=_SIGLIP | {"image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=SPECIAL["<IMG_CONTEXT>"],
        downsample_ratio=0.5,
        vision_feature_layer=-1,
    )
    return InternVLForConditionalGeneration(config)


def _smolvlm():
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    config = SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config=_SIGLIP | {"image_size": 16},
        image_token_id=SPECIAL["<image>"],
        scale_factor=2,
        tie_word_embeddings=False,
    )
    return SmolVLMForConditionalGeneration(config)


def _video_llama_3():
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    config = VideoLlama3Config(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=_SIGLIP,
        video_token_id=SPECIAL["<|video_pad|>"],
        image_token_id=SPECIAL["<|image_pad|>"],
    )
    return VideoLlama3ForConditionalGeneration(config)


MODELS = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
    "llava_onevision": _llava,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "video_llama_3": _video_llama_3,
}
