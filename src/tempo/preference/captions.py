"""Captions of clips, written by the model itself.

Captioning is differential: the first clip is shown alone, every other clip after the clip before it. An
answer gives its whole caption, without markdown and enclosing quotation marks, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

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

#: What models insert before the colon: "(clip 2)", "of the second clip".
_SUBJECT = r"(?:[ \t]*\([^)\n]{0,40}\)|[ \t]+(?:of|for)[ \t][^:\n]{0,40})"

#: The mark at the start of a line, in any case and markdown: "## caption (clip 2):".
_AT_START = rf"(?m:^)[ \t#>*_`-]*(?i:{_WORD})%s[*_` \t]*:[*_`]*"

#: Forms of the mark, the most reliable first. A caption may mention captions, so a less reliable form that
#: follows a more reliable one is a part of the caption. Within a line the mark counts only as it was asked
#: for, and not after a quotation mark: there it is text that the model has read in a frame.
_MARKS = (
    re.compile(_AT_START % ""),
    re.compile(_AT_START % _SUBJECT),
    re.compile(rf"(?<![\"'“‘«*_`])[*_`]*\b{_WORD}[*_`]*:[*_`]*"),
)

#: Rules, headings, bullets and quotations at the start of a line; then emphasis and code within it.
_MARKDOWN = (
    re.compile(r"^[ \t]*[-*_]{3,}[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*(?:(?:#{1,6}|[-+*•>])[ \t]+)+", re.MULTILINE),
    re.compile(r"\*{2,}|`+|(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)"),
)

_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("‘", "’"), ("«", "»"))


class Drawn(NamedTuple):
    """The last answer to a request and the caption in it, or None."""

    answer: Answer
    caption: str | None


def make_worker(context: Context, generate: Generate | None = None) -> Worker:
    """A worker from Clips to Captions; it skips a video if one of its clips gets no caption.

    `generate` replaces the configured model or server.
    """
    draw_answers = generate or answer_source(context)
    store = FrameStore(context.directory / "frames")
    settings, seed = context.config.captions, context.config.run.seed
    # At temperature 0 another try would give the same words.
    num_tries = settings.retries + 1 if settings.temperature else 1

    def draw(requests: Sequence[Request]) -> list[Answer]:
        return draw_answers(requests, sampling=settings, max_new_tokens=settings.max_new_tokens)

    def work(batch: Sequence[Clips]) -> Sequence[Captions | Skipped]:
        asked = [attempt(STAGE, video, lambda row: clip_requests(row, store, seed=seed)) for video in batch]
        requests = [request for row in asked if not isinstance(row, Skipped) for request in row]
        drawn = iter(draw_captions(requests, draw, num_tries=num_tries))
        return [
            row if isinstance(row, Skipped) else _collect(video, [next(drawn) for _ in row])
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


def draw_captions(
    requests: Sequence[Request], draw: Callable[[Sequence[Request]], list[Answer]], *, num_tries: int
) -> list[Drawn]:
    """One caption per request; a failed one is drawn again, each time with another seed."""
    drawn = [Drawn(Answer("", is_whole=True), None)] * len(requests)
    for number in range(num_tries):
        # A server's client has its own retries.
        left = [i for i, row in enumerate(drawn) if row.caption is None and not row.answer.failure]
        if not left:
            break
        again = [replace(requests[i], seed=derive_seed(requests[i].seed, number)) for i in left]
        for i, answer in zip(left, draw(again), strict=True):
            is_differential, is_last = requests[i].prompt == DIFFERENCE, number + 1 == num_tries
            caption = clean_caption(answer, is_differential=is_differential, is_last_try=is_last)
            drawn[i] = Drawn(answer, caption)
    return drawn


def _collect(video: Clips, drawn: Sequence[Drawn]) -> Captions | Skipped:
    if failed := skip_if_failed([row.answer for row in drawn], stage=STAGE, id=video.id):
        return failed
    captions = [row.caption for row in drawn]
    if None in captions:
        index = captions.index(None)
        fault = "empty" if drawn[index].answer.is_whole else "cut at captions.max_new_tokens"
        detail = f"clip {index} of {len(captions)}: {fault}"
        return Skipped(stage=STAGE, id=video.id, reason="no caption", detail=detail)
    return Captions(id=video.id, captions=tuple(caption for caption in captions if caption))


def clean_caption(answer: Answer, *, is_differential: bool, is_last_try: bool = True) -> str | None:
    """The caption in an answer, on one line; None if it is empty or the token limit cut it.

    It is the text after the last of the most reliable marks. Without a mark, a differential answer describes
    both clips: it gives None, and on the last try its longest paragraph. Any other answer is a caption as a
    whole.
    """
    if not answer.is_whole:
        return None
    text = _after_mark(answer.text)
    if text is None and is_differential:
        # The last paragraph may be a closing remark.
        paragraphs = re.split(r"\n\s*\n", answer.text.strip())
        text = max(reversed(paragraphs), key=len) if is_last_try else ""
    elif text is None:
        text = answer.text
    for pattern in _MARKDOWN:
        text = pattern.sub("", text)
    text = _unquote(" ".join(text.split()))
    return text if any(c.isalnum() for c in text) else None


def _after_mark(text: str) -> str | None:
    return next((mark.split(text)[-1] for mark in _MARKS if mark.search(text)), None)


def _unquote(text: str) -> str:
    """Removes quotation marks that enclose the whole text, and no others."""
    for opening, closing in _QUOTES:
        inner = text[1:-1].strip()
        # An apostrophe within a word is not a closing quotation mark.
        marks = set(re.sub(r"\b['’]\b", "", inner)) & {opening, closing}
        if len(text) > 1 and text[0] == opening and text[-1] == closing and not marks:
            return inner
    return text
