"""The result of a run in one sentence, from the figures in `evaluation.json`."""

from __future__ import annotations

from collections.abc import Sequence

from tempo.evaluation.figures import RESULT, Figure, Value

#: The figures that the page opens with: their titles, and what the model does in a share of the cases.
MAIN = {
    "conflicting, group score": (
        "conflicting videos, both right",
        "picks the right order of two conflicting videos in {} of cases",
    ),
    "temporal questions": ("questions about time", "answers {} of the questions about time correctly"),
    "static": ("questions about one frame", "answers {} of the questions about one frame correctly"),
    "own words, group score": (
        "rearranged held-out videos, both right",
        "tells a held-out video from its rearrangement in {} of cases",
    ),
    "pairs, chosen text likelier": (
        "held-out pairs, right text preferred",
        "prefers the text in the right order for {} of the held-out pairs",
    ),
    "probe, real video likelier": (
        "changed held-out videos noticed",
        "notices in {} of cases that a held-out video was changed",
    ),
}


def main_figures(figures: Sequence[Figure]) -> list[Figure]:
    """The first three of MAIN that a run has, from the first source that has them."""
    known = {figure.name: figure for figure in reversed(figures)}
    return [known[name] for name in MAIN if name in known][:3]


def headline(figure: Figure | None) -> tuple[str, str]:
    """What training changed in a figure of MAIN, as one sentence, and the evidence for it."""
    if figure is None:
        return "This run has no figure that compares the models.", ""
    base, result = figure.values["base"], figure.values.get(RESULT)
    claim = MAIN[figure.name][1].format(_percent(result or base))
    measured = f"Measured on: {figure.source} (videos: {figure.num_videos}, items: {figure.num_items})."
    if result is None:
        return f"Nothing was trained; the model {claim}.", f"{_interval(base)} {measured}"
    gain = figure.differences["base"]
    low, high = gain.interval or (0.0, 0.0)
    doubt = "No clear change" if gain.interval else "Too few videos to tell"
    verdict = "After" if low > 0 else f"{'Training made it worse' if high < 0 else doubt}: after"
    sentence = f"{verdict} training, the model {claim}; before: {_percent(base)}."
    return sentence, f"The difference is {100 * gain.value:+.1f} points, {_interval(gain)} {measured}"


def _percent(value: Value) -> str:
    # A space that does not break.
    return f"{100 * value.value:.0f}\u00a0%"


def _interval(value: Value) -> str:
    if value.interval is None:
        return "no interval, which needs more videos."
    return "95 % interval {:.1f} to {:.1f}.".format(*(100 * bound for bound in value.interval))
