"""What the figures of a phase say to its user: warnings that teach, each given once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tempo.config import DpoPhase, PhaseConfig

Row = Mapping[str, float]

#: Steps over which figures are looked at: fewer say nothing, more would come too late.
WINDOW = 5
#: Fall of the chosen answers' reward, in units of beta times nats, from which on it is worth a word.
FALL = 0.5


def advise(rows: Sequence[Row], phase: PhaseConfig) -> dict[str, str]:
    """Name to text of every warning that the steps so far call for; empty for an SFT phase."""
    if phase.objective != "dpo" or len(rows) < WINDOW:
        return {}
    found = {"trivial pairs": _trivial(rows, phase), "falling chosen": _falling(rows, phase)}
    return {name: text for name, text in found.items() if text}


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _trivial(rows: Sequence[Row], phase: PhaseConfig) -> str:
    # Until the first step with a rate has been taken, policy and reference are the same and no pair is won.
    first = next((i for i, row in enumerate(rows) if row["learning_rate"] > 0), len(rows)) + 1
    early = rows[first : first + WINDOW]
    if len(early) < WINDOW or min(row["rewards/accuracies"] for row in early) < 1:
        return ""
    return (
        f"phase {phase.name!r}: every pair is won after the first step. Such pairs teach little: "
        "take harder levels (smaller numbers) or look with `tempo audit` whether length gives the answer away"
    )


def _falling(rows: Sequence[Row], phase: DpoPhase) -> str:
    last = rows[-WINDOW:]
    chosen, rejected = _mean(last, "rewards/chosen"), _mean(last, "rewards/rejected")
    if chosen > -FALL:
        return ""
    figures = (
        f"phase {phase.name!r}: the reward of chosen answers fell to {chosen:.2f}, rejected {rejected:.2f}"
    )
    if rejected < chosen and not phase.nll_weight:
        return (
            f"{figures}. Usual for DPO without NLL: both become less likely, the rejected ones faster. "
            "nll_weight = 1.0 (the released recipe's) holds the chosen ones up"
        )
    return f"{figures}. Not usual here: the learning rate of {phase.learning_rate:g} may be too high"
