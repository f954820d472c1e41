"""Pairs with a known flaw, for the tests of the audit."""

from __future__ import annotations

import random

from tempo.core.records import Pair

WORDS = [f"w{i}" for i in range(40)]
KINDS = ("drop", "shuffle", "reverse")
LEVELS = (16, 2)


def pair(video, kind="shuffle", level=2, *, chosen="a b", rejected="b a"):
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=f"{video}.mp4",
        prompt="Describe the video in detail.",
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        level=level,
        order=(1, 0),
        num_clips=4,
    )


def text(draw, count):
    return " ".join(draw.choices(WORDS, k=count))


def fair_pairs(num_videos, *, seed=0):
    """Texts and lengths drawn alike for both sides: nothing tells them apart."""
    rows = []
    for video in range(num_videos):
        draw = random.Random(f"{seed}/{video}")
        chosen = text(draw, draw.randint(17, 23))
        for kind in KINDS:
            rows += [
                pair(f"v{video}", kind, level, chosen=chosen, rejected=text(draw, draw.randint(17, 23)))
                for level in LEVELS
            ]
    return rows


def change(rows, flaw):
    """The pairs with both texts as `flaw(pair)` gives them."""
    changed = []
    for row in rows:
        chosen, rejected = flaw(row)
        changed.append(row.model_copy(update={"chosen": chosen, "rejected": rejected}))
    return changed


def short_drops(row):
    """Rejected answers of drop pairs lose half of their words."""
    words = row.rejected.split()
    return row.chosen, " ".join(words[: len(words) // 2]) if row.kind == "drop" else row.rejected


def telltale(row):
    """Rejected answers say a word that chosen ones never say, at the same length."""
    return row.chosen, " ".join(["suddenly", *row.rejected.split()[1:]])
