"""The prompts for captions, responses and training."""

from collections.abc import Sequence

from tempo.config.data import ResponsesConfig
from tempo.core.hashing import derive_seed

#: The default training prompts.
DESCRIBE = ResponsesConfig().prompts

FIRST_CLIP = "Describe this clip in detail."

#: An answer to DIFFERENCE ends with this mark and the caption.
CAPTION_MARK = "Caption:"

DIFFERENCE = (
    "The first half of these frames is one clip, the second half is the next clip. Describe the second clip "
    f"and its connection to the first. End with '{CAPTION_MARK}' and a caption of the second clip alone."
)


def describe_prompt(video_id: str, prompts: Sequence[str] = DESCRIBE, *, seed: int) -> str:
    """The element of `prompts` for a video, in training and whenever the model is shown the video."""
    return prompts[derive_seed(seed, video_id, "prompt") % len(prompts)]


def fusion(captions: Sequence[str]) -> str:
    """The prompt that asks for one chronological paragraph from clip captions."""
    lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
    head = "These captions describe the clips of a video in order:"
    return f"{head}\n{lines}\nWrite them as one chronological paragraph."
