"""What the audit's figures mean in words, and what to set where they mean harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Of fewer videos the verdict says nothing, whatever the figures.
MIN_VIDEOS = 20

#: A judge that is right more often than this has found a shortcut.
SHORTCUT = 0.55


@dataclass(frozen=True)
class Judge:
    """A judge's name in tables, and whether it was fitted.

    One that was not may be wrong more often than chance; turned round it tells pairs apart too. A fitted one
    has chosen its direction already: under 50 % it has found nothing.
    """

    name: str
    fitted: bool

    def strength(self, accuracy: float) -> float:
        """The share of pairs that can be told apart by what this judge looks at."""
        return accuracy if self.fitted else max(accuracy, 1 - accuracy)

    def sure_strength(self, cell: dict[str, Any]) -> float:
        """The least strength within the 95 % interval; 0 of too few videos."""
        if cell["num_videos"] < MIN_VIDEOS:
            return 0.0
        low, high = cell["interval"]
        return float(low) if self.fitted else max(low, 1 - high)


JUDGES = {
    "longer": Judge("longer text", fitted=False),
    "length": Judge("length", fitted=True),
    "words": Judge("words", fitted=True),
    "model": Judge("model", fitted=False),
}

#: What the verdict speaks of: its judges, of which the strongest counts, and the advice.
SHORTCUTS = {
    "Length": (
        ("longer", "length"),
        'Set pairs.length = "fair" (fewer pairs, hardly a drop pair), or keep such kinds out of the phases.',
    ),
    "The choice of words": (
        ("words",),
        "telling_words in audit.json names them. Counting words stand for length; others mean that the model "
        "words its answers to perturbed videos differently.",
    ),
    "The language model without the video": (
        ("model",),
        "One side reads more fluently than the other: compare them in the report, and see "
        "responses.temperature.",
    ),
}


def verdict(scores: dict[str, Any], *, num_pairs: int, num_videos: int) -> str:
    """One sentence for each thing that may give the pairs away, with advice where it does."""
    if num_videos < MIN_VIDEOS:
        return f"Too few to say: {num_pairs} pairs of {num_videos} videos, {MIN_VIDEOS} videos are needed."
    sentences = []
    for subject, (names, advice) in SHORTCUTS.items():
        asked = [name for name in names if name in scores]
        if asked:
            name = max(asked, key=lambda name: JUDGES[name].strength(scores[name]["accuracy"]))
            sentences.append(_sentence(subject, JUDGES[name], scores[name], advice))
    return " ".join(sentences)


def _sentence(subject: str, judge: Judge, summary: dict[str, Any], advice: str) -> str:
    strength = judge.strength(summary["accuracy"])
    told = f"{subject} alone tells {100 * strength:.0f} % of the pairs apart"
    worst = _worst(judge, summary)
    if strength > SHORTCUT and judge.sure_strength(summary) > 0.5:
        way = " (by preferring the rejected answer)" if summary["accuracy"] < 0.5 else ""
        return f"{told}{way}{worst and ', ' + worst}: a shortcut. {advice}"
    if worst:
        return f"{told}, but {worst}: a shortcut there. {advice}"
    return f"{told}: no shortcut{' that is certain' if strength > SHORTCUT else ''}."


def _worst(judge: Judge, summary: dict[str, Any]) -> str:
    """The kind or level that the judge tells apart best, where that is a shortcut beyond doubt."""
    cells = {f"{kind} pairs": cell for kind, cell in summary["by_kind"].items()}
    cells |= {f"level {level}": cell for level, cell in summary["by_level"].items()}
    sure = {name: cell["accuracy"] for name, cell in cells.items() if judge.sure_strength(cell) > SHORTCUT}
    if not sure:
        return ""
    name = max(sure, key=lambda name: judge.strength(sure[name]))
    return f"{100 * judge.strength(sure[name]):.0f} % of {name}"
