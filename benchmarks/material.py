"""The input of every form: a checkpoint, frames of random pixels, and texts with a given number of tokens.

Pixels and words are random, because only their number matters. Frames are separate images, the only form in
which TRL's DPOTrainer takes them, so that every form gets the same tokens and pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import OUT, in_fresh_process

PROMPT = "Describe the video in detail."

#: The `small` model: family, tokenizer and frame size of the embedded one; larger, with random weights.
SMALL_TEXT = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "layer_types": ["full_attention"] * 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [16, 8, 8]},
}
SMALL_VISION = {
    "depth": 6,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_heads": 4,
    "out_hidden_size": 384,
    "fullatt_block_indexes": [2, 5],
}


@dataclass(frozen=True)
class Setting:
    """One cell of the grid. `path` is `embedded` or the directory of a checkpoint; `side` is in pixels."""

    model: str
    path: str
    num_visual_tokens: int
    num_rejected: int
    num_answer_tokens: int
    steps: int = 1
    side: int = 256
    threads: int = 1

    def __str__(self) -> str:
        answers = f"1 chosen + {self.num_rejected} rejected of {self.num_answer_tokens} tokens"
        return f"{self.model}, {self.num_visual_tokens} visual tokens, {answers}"


@dataclass(frozen=True)
class Material:
    """A loaded model with the images, the templated prompt and the answers, chosen first.

    `ending` is all that the chat template writes after an answer. TRL trains on all of it, so all forms do.
    """

    lm: Any
    images: tuple[Any, ...]
    prompt: str
    answers: tuple[str, ...]
    ending: str


def make_material(setting: Setting) -> Material:
    """The same for every form and process; raises ValueError if no images have that many visual tokens."""
    lm = load_lm(setting.path, side=setting.side, threads=setting.threads)
    images = make_images(lm.processor, setting.num_visual_tokens, setting.side)
    ending = answer_ending(lm)
    texts = [
        make_answer(lm.tokenizer, setting.num_answer_tokens, ending, seed=index)
        for index in range(setting.num_rejected + 1)
    ]
    return Material(lm, images, prompt_text(lm, len(images)), tuple(texts), ending)


def load_lm(path: str, *, side: int, threads: int) -> Any:
    """The model in float32 on the CPU; its processor does not resize images of `side` pixels."""
    import torch

    from tempo.model.loading import load_model

    torch.set_num_threads(threads)
    lm = load_model(path, device="cpu", dtype="float32")
    for processor in (lm.processor.image_processor, lm.processor.video_processor):
        processor.size = {"shortest_edge": side**2, "longest_edge": side**2}
    return lm


def make_images(processor: Any, num_visual_tokens: int, side: int) -> tuple[Any, ...]:
    """Pictures of noise that become exactly `num_visual_tokens`; raises ValueError where none can."""
    from PIL import Image

    edge = processor.image_processor.patch_size * processor.image_processor.merge_size
    each = (side // edge) ** 2
    if side % edge or num_visual_tokens % each:
        raise ValueError(
            f"{num_visual_tokens} visual tokens from images of {side} pixels: side must be a multiple of "
            f"{edge}, and the tokens one of {max(each, 1)}"
        )
    rng = np.random.default_rng(0)
    shape = (num_visual_tokens // each, side, side, 3)
    return tuple(Image.fromarray(image) for image in rng.integers(0, 255, shape, dtype=np.uint8))


def prompt_text(lm: Any, num_images: int) -> str:
    """Pictures and prompt as the chat template writes them, up to where the answer starts."""
    content = [*[{"type": "image"}] * num_images, {"type": "text", "text": PROMPT}]
    messages = [{"role": "user", "content": content}]
    return lm.processor.apply_chat_template(messages, add_generation_prompt=True)


def answer_ending(lm: Any) -> str:
    """The text of the chat template after an answer: the end of the turn, and often a newline."""
    question = {"role": "user", "content": [{"type": "text", "text": PROMPT}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "\x1a"}]}
    return lm.processor.apply_chat_template([question, answer]).split("\x1a")[1]


def make_answer(tokenizer: Any, num_tokens: int, ending: str, *, seed: int) -> str:
    """Words whose tokens and those of `ending` are exactly `num_tokens`; raises ValueError for too few."""
    rng = np.random.default_rng([1, seed])
    # Ġ is how a byte-level vocabulary writes a space: each of these words is one token.
    words = sorted(token[1:] for token in tokenizer.get_vocab() if token[0] == "Ġ" and token[1:].isalpha())
    fewest = count_tokens(tokenizer, "A" + ending)
    if num_tokens < fewest:
        raise ValueError(f"an answer of {num_tokens} tokens: with its ending it has {fewest} at least")
    text = " ".join(["A", *rng.choice(words, size=num_tokens - fewest).tolist()])
    assert count_tokens(tokenizer, text + ending) == num_tokens
    return text


def count_tokens(tokenizer: Any, text: str) -> int:
    """The tokens of a text, without special tokens."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def make_group(material: Material) -> Any:
    """The prompt with its images, and all answers over it, as one group."""
    from tempo.model.prefix import ContinuationTokens, Group

    processor = material.lm.processor
    inputs = processor(text=[material.prompt], images=list(material.images), return_tensors="pt")
    texts = [answer + material.ending for answer in material.answers]
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return Group(dict(inputs), tuple(ContinuationTokens(tuple(answer)) for answer in ids))


def checkpoint(model: str) -> str:
    """The path of a model by its name; `small` is made first, in a separate process."""
    return in_fresh_process(save_small, OUT / "bench" / "small") if model == "small" else model


def save_small(directory: Path) -> str:
    """Writes the `small` checkpoint and returns its path; the weights are seeded."""
    import torch

    from tempo.model.loading import repair_torchvision, resolve_model_path

    repair_torchvision()
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    embedded = resolve_model_path("embedded")
    config = AutoConfig.from_pretrained(embedded)
    for section, changes in ((config.text_config, SMALL_TEXT), (config.vision_config, SMALL_VISION)):
        for name, value in changes.items():
            setattr(section, name, value)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(directory)
    AutoProcessor.from_pretrained(embedded).save_pretrained(directory)
    return str(directory)
