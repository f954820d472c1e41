"""The prompts for captions, responses and training."""

from __future__ import annotations

from collections.abc import Sequence

from tempo.core.hashing import derive_seed

#: Training prompts; each video gets one of them.
DESCRIBE = (
    "Describe the video in detail.",
    "Describe what happens in the video, in order.",
    "Tell the events of the video from beginning to end.",
)

FIRST_CLIP = "Describe this clip in detail."

#: An answer to DIFFERENCE ends with this mark and the caption.
CAPTION_MARK = "Caption:"

DIFFERENCE = (
    "The first half of these frames is one clip, the second half is the next clip. Describe the second clip "
    f"and its connection to the first. End with '{CAPTION_MARK}' and a caption of the second clip alone."
)


def describe_prompt(video_id: str, *, seed: int) -> str:
    """The element of DESCRIBE used for a video, in training and whenever the model is shown the video."""
    return DESCRIBE[derive_seed(seed, video_id, "prompt") % len(DESCRIBE)]


def fusion(captions: Sequence[str]) -> str:
    """The prompt that asks for one chronological paragraph from clip captions."""
    lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
    head = "These captions describe the clips of a video in order:"
    return f"{head}\n{lines}\nWrite them as one chronological paragraph."
