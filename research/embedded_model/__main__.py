"""Makes an embedded model: a small Video LLM that knows what happens in the embedded world, but not in which
order.

    torchrun --nproc-per-node 2 -m research.embedded_model --out DIR
    python -m research.embedded_model --out DIR --architecture llava_onevision
    python -m research.embedded_model --measure DIR

First the vision tower learns to see (vision.py). Then the language model learns to caption a clip, to say how
a clip differs from the one before it, to fuse captions, and to answer questions about stories (examples.py).
Whole stories are described with their order lost, as `--order-fidelity` says. The result is measured and gets
a model card (card.py). `--continue-from DIR` starts from a checkpoint whose vision is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from research.embedded_model.card import measure, write_card
from research.embedded_model.examples import Recipe
from research.embedded_model.models import ARCHITECTURES, SIZES, build_model
from research.embedded_model.training import prepare_device, train
from tempo.engine.ranks import pick_device, process_rank
from tempo.model.loading import load_model

CHOICES = {
    "architecture": sorted(ARCHITECTURES),
    "size": list(SIZES),
    "device": ["auto", "cpu", "cuda"],
    "optimizer": ["adamw", "muon"],
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m research.embedded_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="directory of the new model")
    what.add_argument("--measure", type=Path, help="only measure this model, and write its card anew")
    parser.add_argument("--continue-from", default="", help="a checkpoint whose vision is trained")
    parser.add_argument("--num-stories", type=int, default=200, help="stories that the card is measured on")
    for name, default in vars(Recipe()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, choices=CHOICES.get(name))
    given = parser.parse_args()
    if given.out:
        make(
            Recipe(**{name: getattr(given, name) for name in vars(Recipe())}), given.out, given.continue_from
        )
    if process_rank() == 0:
        write_measured_card(given.out or given.measure, num_stories=given.num_stories, device=given.device)


def make(recipe: Recipe, out: Path, start: str) -> None:
    """Trains a model, from random weights or from the checkpoint `start`, into the directory `out`."""
    prepare_device(pick_device(recipe.device))
    if start:
        lm = load_model(start, dtype="float32", device=recipe.device)
    else:
        lm = build_model(recipe.architecture, size=recipe.size, seed=recipe.seed, device=recipe.device)
    train(lm, recipe, out, skip_vision=bool(start))


def write_measured_card(path: Path, *, num_stories: int, device: str) -> None:
    """Measures the model in `path` in float32, writes its card and prints it."""
    lm = load_model(path, device=device, dtype="float32")
    num_parameters = sum(parameter.numel() for parameter in lm.model.parameters())
    scores = measure(lm, num_stories=num_stories)
    write_card(path, scores, num_parameters=num_parameters, num_stories=num_stories)
    print((path / "README.md").read_text())


if __name__ == "__main__":
    main()
