"""Seven families: tiny random models and their own processors, built in memory without a download."""

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

#: Words of the small vocabulary are numbers; any other word is unknown.
WORDS = range(3, 80)
VOCABULARY = 100
SPECIAL = {
    "<|im_start|>": 80, "<|vision_start|>": 81, "<|vision_end|>": 82, "<|video_pad|>": 83,
    "<|image_pad|>": 84, "<video>": 85, "<image>": 86, "<img>": 87, "</img>": 88, "<IMG_CONTEXT>": 89,
    "<fake_token_around_image>": 90, "<global-img>": 91, "<end_of_utterance>": 92,
}  # fmt: skip
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
QWEN = {
    "video_token_id": SPECIAL["<|video_pad|>"], "image_token_id": SPECIAL["<|image_pad|>"],
    "vision_start_token_id": SPECIAL["<|vision_start|>"],
    "vision_end_token_id": SPECIAL["<|vision_end|>"], "tie_word_embeddings": False,
}  # fmt: skip
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP |= {"patch_size": 4}

#: Per family: the name of its classes, how its chat template writes a video, and its configuration.
CONFIGS = {
    "qwen2_vl": (
        "Qwen2VL", QWEN_VIDEO,
        {"text_config": QWEN_TEXT, **QWEN,
         "vision_config": QWEN_VISION | {"embed_dim": 32, "mlp_ratio": 2, "hidden_size": 48}},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL", QWEN_VIDEO,
        {"text_config": QWEN_TEXT, **QWEN,
         "vision_config": WIDE | {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}},
    ),
    "qwen3_vl": (
        "Qwen3VL", QWEN_VIDEO,
        {"text_config": QWEN_TEXT | {
            "head_dim": 12, "rope_parameters": QWEN_TEXT["rope_parameters"] | {"mrope_interleaved": True}},
         "vision_config": WIDE | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}, **QWEN},
    ),
    "llava_onevision": (
        "LlavaOnevision", "<video>",
        {"text_config": {"model_type": "qwen2", **TEXT},
         "vision_config": SIGLIP | {
             "model_type": "siglip_vision_model", "image_size": 16, "vision_use_head": False},
         "video_token_index": SPECIAL["<video>"], "image_token_index": SPECIAL["<image>"],
         "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "image_grid_pinpoints": [[16, 16]], "tie_word_embeddings": False},
    ),
    "internvl": (
        "InternVL", "<video>",
        {"text_config": {"model_type": "qwen2", **TEXT},
         "vision_config": SIGLIP | {"image_size": [16, 16], "patch_size": [4, 4]},
         "image_token_id": SPECIAL["<IMG_CONTEXT>"], "downsample_ratio": 0.5, "vision_feature_layer": -1},
    ),
    "smolvlm": (
        "SmolVLM", "<video>",
        {"text_config": {"model_type": "llama", **TEXT}, "vision_config": SIGLIP | {"image_size": 16},
         "image_token_id": SPECIAL["<image>"], "scale_factor": 2, "tie_word_embeddings": False},
    ),
    "video_llama_3": (
        "VideoLlama3", "<|video_pad|>",
        {"text_config": {"model_type": "qwen2", **TEXT}, "vision_config": SIGLIP,
         "video_token_id": SPECIAL["<|video_pad|>"], "image_token_id": SPECIAL["<|image_pad|>"]},
    ),
}  # fmt: skip
FAMILIES = sorted(CONFIGS)

PATCHES = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 10**6}}
SQUARE = {"size": {"height": 16, "width": 16}}
EDGES = {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}}
WHOLE_FRAMES = {"cap_pixels_per_frame": False}
#: Per family: image processor, video processor, options of both, of the video processor, of the processor.
PROCESSORS = {
    "qwen2_vl": ("Qwen2VL", "Qwen2VL", PATCHES, WHOLE_FRAMES, {}),
    "qwen2_5_vl": ("Qwen2VL", "Qwen2VL", PATCHES, WHOLE_FRAMES, {}),
    "qwen3_vl": ("Qwen2VL", "Qwen3VL", PATCHES, WHOLE_FRAMES, {}),
    "llava_onevision": (
        "LlavaOnevision", "LlavaOnevision", SQUARE, {},
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "internvl": ("GotOcr2", "InternVL", SQUARE, {}, {"image_seq_length": 4}),
    "smolvlm": ("SmolVLM", "SmolVLM", EDGES, {}, {"image_seq_len": 4}),
    "video_llama_3": ("VideoLlama3", "VideoLlama3", PATCHES, {}, {}),
}  # fmt: skip


def make_model(family: str, *, seed: int = 0, attention: bool = True):
    """A float32 model of a family, with shared-prefix attention if `attention`."""
    name, _, config = CONFIGS[family]
    torch.manual_seed(seed)
    make = getattr(transformers, f"{name}ForConditionalGeneration")
    model = make(getattr(transformers, f"{name}Config")(**config)).float().eval()
    for parameter in model.parameters():
        # With the default initialisation, which is small, wrong attention would hardly show.
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    if attention:
        use_shared_prefix(model)
    return model


@functools.cache
def make_processor(family: str, *, bytes_: bool = False):
    """The processor of a family's small model: patches of 4 x 4 pixels, four patches to a token.

    Its tokenizer knows numbers only, or all text with `bytes_`.
    """

    name, placeholder, _ = CONFIGS[family]
    images, videos, both, video_options, options = PROCESSORS[family]
    processor = getattr(transformers, f"{name}Processor")(
        getattr(transformers, f"{images}ImageProcessor")(**both),
        make_tokenizer(family, bytes_=bytes_),
        getattr(transformers, f"{videos}VideoProcessor")(**both, **video_options),
        **options,
    )
    processor.chat_template = CHAT_TEMPLATE.replace("VIDEO", placeholder)
    processor.tokenizer.chat_template = processor.chat_template
    return processor


def make_tokenizer(family: str, *, bytes_: bool = False):
    """A tokenizer of the small vocabulary, or a byte-level one that sees white space."""
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
        numbers = {str(n): n for n in WORDS}
        vocabulary = {"<unk>": 0, "<|endoftext|>": 1, "<|im_end|>": 2, **numbers, **SPECIAL}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(SPECIAL))
    # InternVL's processor reads the names of its tokens from the tokenizer.
    internvl = {"start_image_token": "<img>", "end_image_token": "</img>"}
    internvl |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=internvl if family == "internvl" else None,
    )


def make_lm(family: str) -> VideoLM:
    """The model with its processor, as `load_model` returns it."""
    return VideoLM(make_model(family), make_processor(family))


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
    lm = VideoLM(None, make_processor(family))
    text = lm.template.render(" ".join(map(str, generator.choice(WORDS, 4))), with_video=num_steps > 0)
    frames = make_frames(family, num_steps, generator) if num_steps else None
    continuations = [ContinuationTokens(tuple(generator.choice(WORDS, n).tolist()), context) for n in lengths]
    return Group(lm.inputs([text], [Prefix(frames, "")]), tuple(continuations))
