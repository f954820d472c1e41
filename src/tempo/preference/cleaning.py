"""Answers to captions: the whole caption, bare of markdown and quotation marks around it, or nothing."""

from __future__ import annotations

import re

from tempo.model.answers import Answer
from tempo.preference.prompts import CAPTION_MARK

_WORD = re.escape(CAPTION_MARK.rstrip(":"))

#: What may stand between the word and its colon: "(clip 2)", "of the second clip".
_SUBJECT = r"(?:[ \t]*\([^)\n]{0,40}\)|[ \t]+(?:of|for)[ \t][^:\n]{0,40})"

#: A mark at the start of a line, in any case and dress: "## caption (clip 2):".
_AT_START = rf"(?m:^)[ \t#>*_`-]*(?i:{_WORD})%s[*_` \t]*:[*_`]*"

#: The mark as models write it, the surest way first. A caption may speak of captions: after a plain mark a
#: line "Caption of the slide:" is a part of it, and after a mark at the start of a line, one within a line.
#: There it counts only as it was asked for, and in quotation marks it is something read in the picture.
MARKS = (
    re.compile(_AT_START % ""),
    re.compile(_AT_START % _SUBJECT),
    re.compile(rf"(?<![\"'“‘«*_`])[*_`]*\b{_WORD}[*_`]*:[*_`]*"),
)

#: Rules, headings, bullets and quotations at the start of a line; then emphasis and code within it.
MARKDOWN = (
    re.compile(r"^[ \t]*[-*_]{3,}[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*(?:(?:#{1,6}|[-+*•>])[ \t]+)+", re.MULTILINE),
    re.compile(r"\*{2,}|`+|(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)"),
)

QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("‘", "’"), ("«", "»"))


def clean_caption(answer: Answer, *, is_differential: bool, is_last_try: bool = True) -> str | None:
    """The caption in an answer, on one line: all after the last of its surest marks; None if empty or cut.

    Without a mark it is the whole answer where one clip was shown. Where two were, the answer speaks of both:
    None, and only on the last try its longest paragraph. The last may be a word of parting.
    """
    if not answer.is_whole:
        return None
    text = _after_mark(answer.text)
    if text is None and is_differential:
        paragraphs = re.split(r"\n\s*\n", answer.text.strip())
        text = max(reversed(paragraphs), key=len) if is_last_try else ""
    elif text is None:
        text = answer.text
    text = _unquote(" ".join(_without_markdown(text).split()))
    return text if any(c.isalnum() for c in text) else None


def _after_mark(text: str) -> str | None:
    for mark in MARKS:
        if mark.search(text):
            return mark.split(text)[-1]
    return None


def _without_markdown(text: str) -> str:
    for pattern in MARKDOWN:
        text = pattern.sub("", text)
    return text


def _unquote(text: str) -> str:
    """Takes off quotation marks that enclose all of the text; a quotation within it stays as it is."""
    for opening, closing in QUOTES:
        inner = text[1:-1].strip()
        # An apostrophe within a word closes nothing.
        marks = set(re.sub(r"\b['’]\b", "", inner)) & {opening, closing}
        if len(text) > 1 and text[0] == opening and text[-1] == closing and not marks:
            return inner
    return text
