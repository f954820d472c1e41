"""Precision and recall of the detectors `content`, `adaptive` and `transnet` on films with known transitions.

    python benchmarks/detectors.py [--videos ../shared/videos] [--films 2] [--seed 0]

It prints a table for each kind of film and transition. Rendered films are stories of 14 shots. Natural films
are parts of the single-shot files in --videos and as many shots of Big Buck Bunny, in random order; they are
left out if the folder does not exist. The same shots are joined by hard cuts, dissolves and fades through
black (half a second to a second), encoded as H.264, and cut as in the stage `shots`, with each detector's own
threshold and without the filter of short and flat shots.

A cut is right within a transition and 3 frames around it, one cut per transition. All others are false;
`double` counts those in a transition that was already found, such as fades that are found twice.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np
from films import TRANSITIONS, Frames, Transition, cut_out_shots, draw_shots, join, write

from tempo.config import ShotsConfig
from tempo.video.detectors import check_detector
from tempo.video.shots import find_shots

DETECTORS = ("content", "adaptive", "transnet")
NUM_SHOTS = 14

#: An eighth of a second. A shot that starts this early or late hardly shows the shot next to it.
TOLERANCE_FRAMES = 3


@dataclass(frozen=True)
class Score:
    """Counts of transitions and cuts."""

    true: int = 0
    found: int = 0
    false: int = 0
    double: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.true + other.true,
            self.found + other.found,
            self.false + other.false,
            self.double + other.double,
        )

    @property
    def precision(self) -> float:
        """The share of cuts that are right; NaN without cuts."""
        return self.found / (self.found + self.false) if self.found + self.false else math.nan

    @property
    def recall(self) -> float:
        """The share of transitions that are found."""
        return self.found / self.true

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.found / (self.true + self.found + self.false)


def match(cuts: Sequence[int], transitions: Sequence[Transition], tolerance: int = TOLERANCE_FRAMES) -> Score:
    """Matches each transition with its earliest free cut; both are in order, without overlaps."""
    left = sorted(cuts)
    found = double = 0
    for transition in transitions:
        place = range(transition.first - tolerance, transition.end + tolerance + 1)
        inside = [cut for cut in left if cut in place]
        left = [cut for cut in left if cut not in place]
        found += bool(inside)
        double += max(0, len(inside) - 1)
    return Score(len(transitions), found, len(left) + double, double)


def find_cuts(path: Path, detector: str) -> list[int]:
    """The first frames of new shots, as the stage `shots` finds them before its filter."""
    config = ShotsConfig(detector=detector, min_frames=1, min_seconds=0, min_grey_range=0)
    found = find_shots(path, config)
    return [shot.start_frame for shot in found if shot.start_frame]


def materials(videos: Path, *, num_films: int, seed: int) -> Iterator[tuple[str, list[Frames]]]:
    """Yields the name and the shots of each film."""
    for number in range(num_films):
        yield "rendered", draw_shots(seed + number, NUM_SHOTS)
        if (videos / "manifest.csv").exists():
            yield "natural", cut_out_shots(videos, seed + number)


def score(
    videos: Path, detectors: Sequence[str], *, num_films: int, seed: int
) -> dict[tuple[str, str, str], Score]:
    """The score of each detector, material and transition."""
    scores: dict[tuple[str, str, str], Score] = defaultdict(Score)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        for number, (material, shots) in enumerate(materials(videos, num_films=num_films, seed=seed)):
            for name in TRANSITIONS:
                pieces, transitions = join(shots, name, np.random.default_rng([seed, number]))
                write(pieces, path)
                for detector in detectors:
                    scores[detector, material, name] += match(find_cuts(path, detector), transitions)
    return scores


def scores_table(scores: dict[tuple[str, str, str], Score]) -> str:
    """The scores as a Markdown table."""
    order = list(TRANSITIONS)
    rows = sorted(
        scores.items(), key=lambda row: (row[0][1], order.index(row[0][2]), DETECTORS.index(row[0][0]))
    )
    lines = [
        [
            *(material, transition, detector),
            *map(str, (one.true, one.found, one.true - one.found, one.false, one.double)),
            *("-" if math.isnan(share) else f"{share:.2f}" for share in (one.precision, one.recall, one.f1)),
        ]
        for (detector, material, transition), one in rows
    ]
    counts = ["true", "found", "missed", "false", "of these double", "precision", "recall", "F1"]
    return harness.table(["material", "transition", "detector", *counts], lines)


def is_installed(detector: str) -> bool:
    """Whether the package of a detector is installed; prints the reason if not."""
    try:
        check_detector(ShotsConfig.model_validate({"detector": detector}))
    except ValueError as error:
        print(error)
        return False
    return True


def main() -> None:
    """Prints the table."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--videos", type=Path, default=harness.OUT.parents[1] / "shared" / "videos")
    parser.add_argument("--films", type=int, default=2, help="of each material")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    detectors = [name for name in DETECTORS if is_installed(name)]
    scores = score(arguments.videos, detectors, num_films=arguments.films, seed=arguments.seed)
    print(scores_table(scores))


if __name__ == "__main__":
    main()
