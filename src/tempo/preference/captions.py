"""Captions of clips, written by the model itself.

Captioning is differential: the first clip is shown alone, every other clip together with the previous one.
The caption is the part of the answer after a mark, without Markdown and enclosing quotation marks.
"""

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

#: Forms of the mark, the more reliable first: at the start of a line, such as "**Caption:**", or "Caption of
#: the clip:"; and "Caption:" within a line, but not after a quotation mark, where it is text in a frame.
_MARKS = (
    re.compile(rf"^[ \t#>*_`-]*{_WORD}\b[^:\n]{{0,40}}:[*_`]*", re.IGNORECASE | re.MULTILINE),
    re.compile(rf"(?<![\"'“‘«*_`])[*_`]*\b{_WORD}[*_`]*:[*_`]*"),
)

#: Horizontal rules; headings, bullets and quotations at the start of a line; emphasis and code.
_MARKDOWN = (
    re.compile(r"^[ \t]*[-*_]{3,}[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*(?:(?:#{1,6}|[-+*•>])[ \t]+)+", re.MULTILINE),
    re.compile(r"\*{2,}|`+|(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)"),
)

#: A text in quotation marks that contains no other quotation marks.
_QUOTED = re.compile(r'["“„«]\s*([^"“”„«»]*?)\s*["”“»]')


def make_worker(context: Context, generate: Generate | None = None) -> Worker:
    """A worker that maps Clips to Captions. `generate` replaces the configured model or server."""
    draw, store = generate or answer_source(context), FrameStore(context.directory / "frames")
    settings, seed = context.config.captions, context.config.run.seed
    # At temperature 0, another attempt would give the same text.
    num_tries = settings.retries + 1 if settings.temperature else 1

    def draw_captions(requests: Sequence[Request]) -> list[tuple[Answer, str | None]]:
        """The last answer to each request, and its caption if it has one."""
        drawn: list[tuple[Answer, str | None]] = [(Answer("", is_whole=True), None)] * len(requests)
        for number in range(num_tries):
            # The client has already retried requests on which the server failed.
            left = [i for i, (answer, caption) in enumerate(drawn) if caption is None and not answer.failure]
            again = [replace(requests[i], seed=derive_seed(requests[i].seed, number)) for i in left]
            answers = draw(again, sampling=settings, max_new_tokens=settings.max_new_tokens) if left else []
            for i, answer in zip(left, answers, strict=True):
                is_differential, is_last = requests[i].prompt == DIFFERENCE, number + 1 == num_tries
                drawn[i] = answer, clean_caption(answer, is_differential, is_last_try=is_last)
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
    """One request per clip: the two key frames of the previous clip (if there is one), then its own two."""
    frames, requests = store.read_key_frames(video.id), []
    for index, clip in enumerate(video.clips):
        first = max(0, index - 1)
        shown = frames[2 * first : 2 * index + 2]
        # The mean rate gives the model a rough idea of how long the clips are.
        fps = round(len(shown) / (clip.end_seconds - video.clips[first].start_seconds), 3)
        prompt = DIFFERENCE if index else FIRST_CLIP
        requests.append(Request(prompt, derive_seed(seed, video.id, "caption", index), shown, fps))
    return requests


def _collect(video_id: str, drawn: Sequence[tuple[Answer, str | None]]) -> Captions | Skipped:
    if failed := skip_if_failed([answer for answer, _ in drawn], stage=STAGE, id=video_id):
        return failed
    for index, (answer, caption) in enumerate(drawn):
        if caption is None:
            fault = "empty" if answer.is_whole else "cut off at captions.max_new_tokens"
            detail = f"clip {index} of {len(drawn)}: {fault}"
            return Skipped(stage=STAGE, id=video_id, reason="no caption", detail=detail)
    row = Captions(id=video_id, captions=tuple(caption for _, caption in drawn if caption))
    row._num_tokens = sum(len(answer.token_ids) for answer, _ in drawn)
    return row


def clean_caption(answer: Answer, is_differential: bool, *, is_last_try: bool = True) -> str | None:
    """The caption in an answer, on one line; None if it is empty or was cut off at the token limit.

    It is the text after the last mark of the more reliable form. Without a mark, a differential answer
    describes both clips: the result is None, or on the last attempt its longest paragraph. Any other answer
    without a mark is the caption itself.
    """
    if not answer.is_whole:
        return None
    text = answer.text
    if mark := next((mark for mark in _MARKS if mark.search(text)), None):
        text = mark.split(text)[-1]
    elif is_differential:
        # Not the last paragraph, because it may be a closing remark.
        text = max(reversed(re.split(r"\n\s*\n", text.strip())), key=len) if is_last_try else ""
    for pattern in _MARKDOWN:
        text = pattern.sub("", text)
    text = " ".join(text.split())
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1]
    return text if any(c.isalnum() for c in text) else None
