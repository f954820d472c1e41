"""The words that tempo says to a model. Answers to DIFFERENCE end with the caption after CAPTION_MARK."""

from __future__ import annotations

from collections.abc import Sequence

from tempo.core.seeds import derive_seed

#: Training prompts: the whole video and one of these.
DESCRIBE = (
    "Describe the video in detail.",
    "Describe what happens in the video, in order.",
    "Tell the events of the video from beginning to end.",
)

FIRST_CLIP = "Describe this clip in detail."

CAPTION_MARK = "Caption:"

DIFFERENCE = (
    "The first half of these frames is one clip, the second half is the next clip. Describe the second clip "
    f"and its connection to the first. End with '{CAPTION_MARK}' and a caption of the second clip alone."
)


def describe_prompt(video_id: str, *, seed: int) -> str:
    """The one of DESCRIBE that a video is asked with, in training and where the model looks again."""
    return DESCRIBE[derive_seed(seed, video_id, "prompt") % len(DESCRIBE)]


def fusion(captions: Sequence[str]) -> str:
    """The request to fuse clip captions into one chronological paragraph."""
    lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
    head = "These captions describe the clips of a video in order:"
    return f"{head}\n{lines}\nWrite them as one chronological paragraph."
