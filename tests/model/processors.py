"""The families' own processors, built in memory: no download, real placeholders and time stamps."""

from __future__ import annotations

import functools

#: Tokens of the small vocabulary; plain words are the numbers from 3 to 79.
WORDS = range(3, 80)
SPECIAL = {
    "<|im_start|>": 80,
    "<|vision_start|>": 81,
    "<|vision_end|>": 82,
    "<|video_pad|>": 83,
    "<|image_pad|>": 84,
    "<video>": 85,
    "<image>": 86,
    "<img>": 87,
    "</img>": 88,
    "<IMG_CONTEXT>": 89,
    "<fake_token_around_image>": 90,
    "<global-img>": 91,
    "<end_of_utterance>": 92,
}
#: How each family's chat template writes a video.
PLACEHOLDERS = {
    "qwen2_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "llava_onevision": "<video>",
    "internvl": "<video>",
    "smolvlm": "<video>",
    "video_llama_3": "<|video_pad|>",
}


@functools.cache
def make_processor(family: str):
    """The processor of a family's small model: 4 x 4 patches, four of them to a token."""
    template = CHAT_TEMPLATE.replace("VIDEO", PLACEHOLDERS[family])
    processor = MAKERS[family](make_tokenizer(family))
    processor.chat_template = processor.tokenizer.chat_template = template
    return processor


def make_tokenizer(family: str):
    """Words are numbers; whatever else is said is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<|endoftext|>": 1, "<|im_end|>": 2, **{str(n): n for n in WORDS}, **SPECIAL}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        # What InternVL's processor asks its tokenizer for; the others name their tokens themselves.
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        if family == "internvl"
        else None,
    )


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}VIDEO{% else %} {{ part['text'] }} {% endif %}{% endfor %}"
    "<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> {% endif %}"
)
_PATCHES = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 10**6}}
_SQUARE = {"size": {"height": 16, "width": 16}}


def _qwen(name, tokenizer):
    import transformers

    processor = getattr(transformers, name + "Processor")
    videos = transformers.Qwen3VLVideoProcessor if name == "Qwen3VL" else transformers.Qwen2VLVideoProcessor
    sight = _PATCHES | {"temporal_patch_size": 2}
    pictures = transformers.Qwen2VLImageProcessor(**sight)
    return processor(pictures, tokenizer, videos(**sight, cap_pixels_per_frame=False))


def _llava(tokenizer):
    import transformers as t

    images, videos = t.LlavaOnevisionImageProcessor(**_SQUARE), t.LlavaOnevisionVideoProcessor(**_SQUARE)
    return t.LlavaOnevisionProcessor(images, tokenizer, videos, 16, "full")


def _internvl(tokenizer):
    import transformers as t

    images, videos = t.GotOcr2ImageProcessor(**_SQUARE), t.InternVLVideoProcessor(**_SQUARE)
    return t.InternVLProcessor(images, tokenizer, videos, image_seq_length=4)


def _smolvlm(tokenizer):
    import transformers as t
    from transformers.models.smolvlm import processing_smolvlm

    # Writes the number of frames in words; the package for it is no part of what tempo needs.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    edges = {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}}
    images, videos = t.SmolVLMImageProcessor(**edges), t.SmolVLMVideoProcessor(**edges)
    return t.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4)


def _video_llama_3(tokenizer):
    import transformers as t

    images, videos = t.VideoLlama3ImageProcessor(**_PATCHES), t.VideoLlama3VideoProcessor(**_PATCHES)
    return t.VideoLlama3Processor(images, tokenizer, videos)


MAKERS = {
    "qwen2_vl": functools.partial(_qwen, "Qwen2VL"),
    "qwen2_5_vl": functools.partial(_qwen, "Qwen2_5_VL"),
    "qwen3_vl": functools.partial(_qwen, "Qwen3VL"),
    "llava_onevision": _llava,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "video_llama_3": _video_llama_3,
}
