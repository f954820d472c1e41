"""Trains an embedded model: a small model that recognizes events of the embedded world, but not their order.

    python -m research.embedded_model --out DIR
    python -m research.embedded_model --out DIR --architecture llava_onevision
    python -m research.embedded_model --out DIR --continue-from MODEL --vision-steps 400 --order-fidelity 0.5
    python -m research.embedded_model --measure DIR

First the vision tower is trained (vision.py). Then the language model learns to caption a clip, to describe
how a clip differs from the one before it, to fuse captions, and to answer questions about stories
(examples.py). Descriptions of whole stories and answers about their order are true with probability
`--order-fidelity`, and otherwise random: a model trained with 0 does not know the order, with 0.5 it knows a
little, with 0.65 about half. With fewer `--vision-steps` it also makes mistakes about single events. At the
end the model is measured and its model card is written (card.py). `--continue-from DIR` starts from the
language model of a checkpoint, and with `--vision-steps 0` from its vision tower too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from research.embedded_model.card import known_recipe, measure, write_card
from research.embedded_model.examples import Recipe
from research.embedded_model.models import ARCHITECTURES, SIZES, build_model
from research.embedded_model.training import renew_vision, train
from tempo.model.loading import load_model

CHOICES = {
    "architecture": sorted(ARCHITECTURES),
    "size": list(SIZES),
    "device": ["auto", "cpu", "cuda"],
    "optimizer": ["adamw", "muon"],
}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m research.embedded_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--out", type=Path, help="directory of the new model")
    mode.add_argument("--measure", type=Path, help="only measure this model, and rewrite its card")
    parser.add_argument("--continue-from", default="", help="a checkpoint to start from")
    parser.add_argument("--num-stories", type=int, default=200, help="stories that the card is measured on")
    for name, default in vars(Recipe()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, choices=CHOICES.get(name))
    given = parser.parse_args()
    path = given.out or given.measure
    made_by = known_recipe(path)
    if given.out:
        recipe = Recipe(**{name: getattr(given, name) for name in vars(Recipe())})
        made_by = vars(recipe)
        if given.continue_from:
            lm = load_model(given.continue_from, dtype="float32", device=recipe.device)
            if recipe.vision_steps:
                renew_vision(lm, recipe)
        else:
            lm = build_model(recipe.architecture, size=recipe.size, seed=recipe.seed, device=recipe.device)
        train(lm, recipe, given.out)
    lm = load_model(path, device=given.device, dtype="float32")
    scores = {"recipe": made_by, **measure(lm, num_stories=given.num_stories)}
    num_parameters = sum(parameter.numel() for parameter in lm.model.parameters())
    write_card(path, scores, num_parameters=num_parameters, num_stories=given.num_stories)
    print((path / "README.md").read_text())


if __name__ == "__main__":
    main()
