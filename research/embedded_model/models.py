"""The untrained embedded models: one tokenizer and two architectures of transformers, one of them in two
sizes.

Qwen2.5-VL looks at two frames at once and has four visual tokens for them. LLaVA-OneVision looks at one
frame, has four visual tokens for it, and leaves it to the language model to relate frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from tempo.engine.ranks import pick_device
from tempo.model.attention import register_shared_prefix
from tempo.model.chat import VideoLM
from tempo.model.loading import repair_torchvision, use_shared_prefix
from tempo.model.prefix import inner_model, language_model
from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import language
from tempo.synthetic.world import make_story

#: Side in pixels of the frames that the models see.
FRAME_SIZE = 64
VOCABULARY_SIZE = 640

#: Placeholders of a video and of an image in a prompt.
VIDEO, IMAGE = "<|video_pad|>", "<|image_pad|>"
PAD, END = "<|endoftext|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", VIDEO, IMAGE)
SPECIAL_TOKENS = (PAD, "<|im_start|>", END, *VISION)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Size(NamedTuple):
    """Width, inner width and number of layers of the language model and of the vision tower."""

    text: tuple[int, int, int]
    tower: tuple[int, int, int]


#: About 3.6 M and 37 M parameters, to see whether results hold with size. Both towers have the same depth,
#: because their task is the same; layers are few and wide, because small kernels leave a GPU idle.
SIZES = {"small": Size((192, 512, 4), (128, 320, 6)), "large": Size((640, 1792, 6), (256, 640, 6))}


def build_model(architecture: str, *, size: str = "small", seed: int = 0, device: str = "auto") -> VideoLM:
    """The untrained model on its device, with its processor. Weights are drawn on the CPU from `seed`, so
    they are the same on every device. Raises ValueError for an unknown architecture or size."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; use one of {', '.join(ARCHITECTURES)}")
    if size not in SIZES or (size != "small" and architecture != "qwen2_5_vl"):
        raise ValueError(
            f"size {size!r}: use one of {', '.join(SIZES)} with qwen2_5_vl, and small with others"
        )
    repair_torchvision()
    register_shared_prefix()
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    lm = ARCHITECTURES[architecture](tokenizer, SIZES[size])
    use_shared_prefix(lm.model)
    lm.model.to(pick_device(device))
    return lm


def vision_parameters(model: Any) -> list[nn.Parameter]:
    """All parameters outside the language model and its head: vision tower, projector, separators."""
    text = {id(parameter) for parameter in language_model(model).parameters()}
    return [parameter for parameter in inner_model(model).parameters() if id(parameter) not in text]


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer with one token for each word of the world; other text is bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=["<|im_start|>", *VISION],
        model_max_length=4096,
        padding_side="left",
    )


def _corpus() -> Iterator[str]:
    """Enough text for every word of the world to become a token."""
    yield from [*DESCRIBE, DIFFERENCE, FIRST_CLIP, "system\nuser\nassistant\n"] * 200
    yield from [f"{word}, a. {word}, a" for word in language.ORDINALS] * 200
    for index in range(1500):
        rng = np.random.default_rng([7, index])
        story = make_story(7, index, num_shots=(2, 16))
        for question, answer in language.instructions(story, rng, order_fidelity=1.0):
            yield f"{question}\n{answer}"
        yield fusion([language.caption(event) for event in story.events])
        yield language.difference(story.events[0], story.events[1])


def _text_config(tokenizer: Any, shape: tuple[int, int, int], **rope: Any) -> dict[str, Any]:
    width, inner, num_layers = shape
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **rope},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen2_5_vl(tokenizer: Any, size: Size) -> VideoLM:
    # Not at the top of the file: they import torchvision, which `repair_torchvision` must find first.
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    pixels = FRAME_SIZE * FRAME_SIZE
    sizes = {"shortest_edge": pixels, "longest_edge": pixels}
    frames: dict[str, Any] = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "size": sizes}
    processor = transformers.Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**frames),
        tokenizer,
        Qwen2VLVideoProcessor(**frames, cap_pixels_per_frame=False),
        CHAT_TEMPLATE,
    )
    width, inner, depth = size.tower
    vision = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_heads": width // 32,
        "out_hidden_size": size.text[0],
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": FRAME_SIZE,
        "fullatt_block_indexes": [1, 3, 5],
        "tokens_per_second": 1,
    }
    start, end, video, image = tokenizer.convert_tokens_to_ids(list(VISION))
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text_config(tokenizer, size.text, mrope_section=[16, 8, 8]),
        vision_config=vision,
        video_token_id=video,
        image_token_id=image,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    return VideoLM(transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def _llava_onevision(tokenizer: Any, size: Size) -> VideoLM:
    """About 3.3 M parameters, with one more layer in the language model, which has to relate two frames."""
    side = {"height": FRAME_SIZE, "width": FRAME_SIZE}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]]),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=(FRAME_SIZE // 16) ** 2,
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
        "image_size": FRAME_SIZE,
        "patch_size": 16,
        "vision_use_head": False,
    }
    width, inner, num_layers = size.text
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text_config(tokenizer, (width, inner, num_layers + 1))},
        vision_config=vision,
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]],
        tie_word_embeddings=True,
    )
    return VideoLM(transformers.LlavaOnevisionForConditionalGeneration(config), processor)


ARCHITECTURES: dict[str, Callable[[Any, Size], VideoLM]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "llava_onevision": _llava_onevision,
}
