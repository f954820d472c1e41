"""The embedded model's own tokenizer: byte-level BPE over the words of the world, and its chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tempo.preference.prompts import DESCRIBE, DIFFERENCE, FIRST_CLIP, fusion
from tempo.synthetic import language
from tempo.synthetic.world import make_story

VOCABULARY = 640

#: What stands for a video in a prompt, and for a picture.
VIDEO, IMAGE = "<|video_pad|>", "<|image_pad|>"

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    VIDEO,
    IMAGE,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    """A tokenizer that writes each word of the world as one token and any other text in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    return _as_fast(backend)


def _as_fast(backend: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[
            token for token in SPECIAL if token not in ("<|endoftext|>", "<|im_end|>")
        ],
        model_max_length=4096,
        padding_side="left",
    )


def _corpus() -> Iterator[str]:
    """Enough text of the world for every word of it to become a token."""
    yield from [*DESCRIBE, DIFFERENCE, FIRST_CLIP, "system\nuser\nassistant\n"] * 200
    yield from [f"{word}, a. {word}, a" for word in language.ORDINALS] * 200
    for index in range(1500):
        rng = np.random.default_rng([7, index])
        story = make_story(7, index, num_shots=(2, 16))
        for question, answer in language.instructions(story, rng, order_fidelity=1.0):
            yield f"{question}\n{answer}"
        captions = [language.caption(event) for event in story.events]
        yield fusion(captions)
        yield language.difference(story.events[0], story.events[1])
