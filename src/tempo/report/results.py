"""The result of a run in one sentence, from the figures in `evaluation.json`."""

from collections.abc import Sequence

from tempo.evaluation.figures import RESULT, Figure, Value

#: The figures at the top of the page, by importance, and what the model does in that share of cases.
MAIN = {
    "conflicting, group score": "picks the right order of two conflicting videos",
    "temporal questions": "answers a question about time correctly",
    "static": "answers a question about one frame correctly",
    "accuracy": "answers a question of the benchmark correctly",
    "mean over tasks": "answers a question of the benchmark correctly",
    "own words, group score": "tells a held-out video from a reordered copy",
    "pairs, chosen text likelier": "prefers the chosen text of a held-out pair",
    "probe, real video likelier than reordered": "notices that a held-out video was reordered",
}


def main_figures(figures: Sequence[Figure]) -> list[Figure]:
    """The first three of MAIN that a run has, each from the first source that has it."""
    known = {figure.name: figure for figure in reversed(figures)}
    return [known[name] for name in MAIN if name in known][:3]


def headline(figure: Figure | None) -> tuple[str, str]:
    """What training changed in a figure of MAIN, as one sentence, and the evidence for it."""
    if figure is None:
        return "This run has no figure that compares the models.", ""
    base, result = figure.values["base"], figure.values.get(RESULT)
    claim = f"the model {MAIN[figure.name]} in {_percent(result or base)} of cases"
    measured = f"Measured on: {figure.source} (videos: {figure.num_videos}, items: {figure.num_items})."
    if result is None:
        return f"Nothing was trained; {claim}.", f"{_interval(base)} {measured}"
    gain = figure.differences["base"]
    low, high = gain.interval or (0.0, 0.0)
    doubt = "No clear change" if gain.interval else "Too few videos to tell"
    verdict = "After" if low > 0 else f"{'Training made it worse' if high < 0 else doubt}: after"
    sentence = f"{verdict} training, {claim}; before: {_percent(base)}."
    return sentence, f"The difference is {100 * gain.value:+.1f} points, {_interval(gain)} {measured}"


def _percent(value: Value) -> str:
    # A space that does not break.
    return f"{100 * value.value:.0f}\u00a0%"


def _interval(value: Value) -> str:
    if value.interval is None:
        return "no interval, because there are too few videos."
    return "95 % interval {:.1f} to {:.1f}.".format(*(100 * bound for bound in value.interval))
