"""Clips to captions, by the model itself and differentially: each clip together with the one before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tempo.model.generation import Answer, Request, generate
from tempo.model.loading import load_video_lm
from tempo.preference.prompts import CAPTION_MARK, DIFFERENCE, FIRST_CLIP
from tempo.records import Captions, Clips, Drop
from tempo.seeds import derive_seed
from tempo.stage import Context, Worker
from tempo.video.frames import FrameStore

STAGE = "captions"


def make_worker(context: Context) -> Worker:
    """A worker from Clips to Captions; it drops a video of which a clip stays without a caption."""
    lm = load_video_lm(context.config.model)
    store = FrameStore(context.directory / "frames")
    settings = context.config.captions

    def work(batch: Sequence[Clips]) -> Sequence[Captions | Drop]:
        requests = [r for video in batch for r in clip_requests(video, store, seed=context.config.run.seed)]
        texts: list[str | None] = [None] * len(requests)
        for attempt in range(settings.retries + 1):
            open_ones = [i for i, text in enumerate(texts) if text is None]
            if not open_ones:
                break
            again = [replace(requests[i], seed=derive_seed(requests[i].seed, attempt)) for i in open_ones]
            answers = generate(lm, again, sampling=settings, max_new_tokens=settings.max_new_tokens)
            for i, answer in zip(open_ones, answers, strict=True):
                texts[i] = clean_caption(answer)
        remaining = iter(texts)
        return [_collect(video, [next(remaining) for _ in video.clips]) for video in batch]

    return work


def clip_requests(video: Clips, store: FrameStore, *, seed: int) -> list[Request]:
    """One request per clip: clip 0 alone, every other with the key frames of the clip before it first."""
    frames = store.read_key_frames(video.id)
    requests = []
    start = 0
    for index, clip in enumerate(video.clips):
        end = start + len(clip.key_frames)
        first = start - len(video.clips[index - 1].key_frames) if index else start
        seconds = clip.end_seconds - video.clips[max(0, index - 1)].start_seconds
        requests.append(
            Request(
                prompt=DIFFERENCE if index else FIRST_CLIP,
                seed=derive_seed(seed, video.id, "caption", index),
                frames=frames[first:end],
                # Key frames spread over the clips that they show: the rate that says so to the model.
                fps=round((end - first) / seconds, 3),
            )
        )
        start = end
    return requests


def clean_caption(answer: Answer) -> str | None:
    """The caption in an answer: what follows the last mark, else the last paragraph; None if empty or cut."""
    if not answer.is_whole:
        return None
    text = re.split(re.escape(CAPTION_MARK), answer.text, flags=re.IGNORECASE)[-1].strip()
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    caption = paragraphs[-1].strip(" \t\"'*_") if paragraphs else ""
    return re.sub(r"\s+", " ", caption) if any(c.isalnum() for c in caption) else None


def _collect(video: Clips, texts: Sequence[str | None]) -> Captions | Drop:
    if None in texts:
        detail = f"clip {texts.index(None)} of {len(texts)}: empty or cut at captions.max_new_tokens"
        return Drop(stage=STAGE, id=video.id, reason="no caption", detail=detail)
    return Captions(id=video.id, captions=tuple(text for text in texts if text))
