"""Captions of clips, written by the model itself.

Captioning is differential: the first clip is shown alone, every other clip after the clip before it. The
caption is a part of the answer, without markdown and enclosing quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tempo.core.hashing import derive_seed
from tempo.core.records import Captions, Clips, Skipped
from tempo.engine.types import Context, Worker
from tempo.model.answers import Answer, Generate, Request, skip_if_failed
from tempo.model.endpoint import answer_source
from tempo.preference.prompts import CAPTION_MARK, DIFFERENCE, FIRST_CLIP
from tempo.video.faults import attempt
from tempo.video.frames import FrameStore

STAGE = "captions"

_WORD = re.escape(CAPTION_MARK.rstrip(":"))

#: The mark at the start of a line, in any case and markdown: "## caption (clip 2):". For %s see `_MARKS`.
_AT_START = rf"(?m:^)[ \t#>*_`-]*(?i:{_WORD})%s[*_` \t]*:[*_`]*"

#: Forms of the mark, the most reliable first. A caption may mention captions, so a less reliable form that
#: follows a more reliable one is a part of the caption. The second form has a subject before the colon:
#: "(clip 2)", "of the second clip". Within a line the mark counts only as the prompt has it, and not after a
#: quotation mark: there it is text that the model has read in a frame.
_MARKS = (
    re.compile(_AT_START % ""),
    re.compile(_AT_START % r"(?:[ \t]*\([^)\n]{0,40}\)|[ \t]+(?:of|for)[ \t][^:\n]{0,40})"),
    re.compile(rf"(?<![\"'“‘«*_`])[*_`]*\b{_WORD}[*_`]*:[*_`]*"),
)

#: Rules, headings, bullets and quotations at the start of a line; then emphasis and code within it.
_MARKDOWN = (
    re.compile(r"^[ \t]*[-*_]{3,}[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*(?:(?:#{1,6}|[-+*•>])[ \t]+)+", re.MULTILINE),
    re.compile(r"\*{2,}|`+|(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)"),
)

#: A text that is quoted as a whole, and has no other quotation mark within.
_QUOTED = re.compile(r'["“„«]\s*([^"“”„«»]*?)\s*["”“»]')


def make_worker(context: Context, generate: Generate | None = None) -> Worker:
    """A worker from Clips to Captions; it skips a video if one of its clips gets no caption.

    `generate` replaces the configured model or server.
    """
    draw = generate or answer_source(context)
    store = FrameStore(context.directory / "frames")
    settings, seed = context.config.captions, context.config.run.seed
    # At temperature 0 another try would give the same words.
    num_tries = settings.retries + 1 if settings.temperature else 1

    def draw_captions(requests: Sequence[Request]) -> list[tuple[Answer, str | None]]:
        """The last answer to each request, and its caption; a failed one is drawn again with another seed."""
        drawn: list[tuple[Answer, str | None]] = [(Answer("", is_whole=True), None)] * len(requests)
        for number in range(num_tries):
            # A request that a server failed on has been tried again by its client.
            left = [i for i, (answer, caption) in enumerate(drawn) if caption is None and not answer.failure]
            again = [replace(requests[i], seed=derive_seed(requests[i].seed, number)) for i in left]
            answers = draw(again, sampling=settings, max_new_tokens=settings.max_new_tokens) if left else []
            for i, answer in zip(left, answers, strict=True):
                is_differential, is_last = requests[i].prompt == DIFFERENCE, number + 1 == num_tries
                caption = clean_caption(answer, is_differential=is_differential, is_last_try=is_last)
                drawn[i] = answer, caption
        return drawn

    def work(batch: Sequence[Clips]) -> Sequence[Captions | Skipped]:
        asked = [attempt(STAGE, video, lambda row: clip_requests(row, store, seed=seed)) for video in batch]
        requests = [request for row in asked if not isinstance(row, Skipped) for request in row]
        drawn = iter(draw_captions(requests))
        return [
            row if isinstance(row, Skipped) else _collect(video.id, [next(drawn) for _ in row])
            for video, row in zip(batch, asked, strict=True)
        ]

    return work


def clip_requests(video: Clips, store: FrameStore, *, seed: int) -> list[Request]:
    """One request per clip: the key frames of the clip before it (if there is one), then its own."""
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
                # The mean rate: the model then sees roughly how long the clips last.
                fps=round((end - first) / seconds, 3),
            )
        )
        start = end
    return requests


def _collect(video_id: str, drawn: Sequence[tuple[Answer, str | None]]) -> Captions | Skipped:
    if failed := skip_if_failed([answer for answer, _ in drawn], stage=STAGE, id=video_id):
        return failed
    for index, (answer, caption) in enumerate(drawn):
        if caption is None:
            fault = "empty" if answer.is_whole else "cut at captions.max_new_tokens"
            detail = f"clip {index} of {len(drawn)}: {fault}"
            return Skipped(stage=STAGE, id=video_id, reason="no caption", detail=detail)
    return Captions(id=video_id, captions=tuple(caption for _, caption in drawn if caption))


def clean_caption(answer: Answer, *, is_differential: bool, is_last_try: bool = True) -> str | None:
    """The caption in an answer, on one line; None if it is empty or the token limit cut it.

    It is the text after the last of the most reliable marks. Without a mark, a differential answer describes
    both clips: it gives None, and on the last try its longest paragraph. Any other answer is a caption as a
    whole.
    """
    if not answer.is_whole:
        return None
    text = next((mark.split(answer.text)[-1] for mark in _MARKS if mark.search(answer.text)), None)
    if text is None and is_differential:
        # The last paragraph may be a closing remark.
        paragraphs = re.split(r"\n\s*\n", answer.text.strip())
        text = max(reversed(paragraphs), key=len) if is_last_try else ""
    elif text is None:
        text = answer.text
    for pattern in _MARKDOWN:
        text = pattern.sub("", text)
    text = " ".join(text.split())
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1]
    return text if any(c.isalnum() for c in text) else None
