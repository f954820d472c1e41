"""The shared prefix against the plain form, on the very model that a run trains, before it trains it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tempo.model.duplicated import duplicated_log_probs
from tempo.model.loading import VideoLM
from tempo.model.prefix import Group, log_probs

#: How far the two forms may be apart by rounding alone, as `relative_difference` measures it. Both add the
#: same numbers in another order, and the error grows with the root of the depth. Seen on small random models
#: of 2 and of 28 layers: float32 1e-7 and 1.2e-7, bfloat16 9e-4 and 2.5e-3; float16 1e-4 at 2. Each bound is
#: eight times that or more. Answers that see each other gave 0.28 on the trained embedded model, and 0.04 to
#: 0.22 on random ones with a short prefix. A mean over tokens: in the half formats the largest of many is an
#: outlier.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@torch.no_grad()
def self_check(lm: VideoLM, group: Group) -> float:
    """How far the shared prefix is from the plain form on one group: the difference that `TOLERANCES` bounds.

    Two continuations are enough to see whether they see each other; further ones are left out. Costs one
    packed and two plain forward passes. Raises ValueError with the figures if the two forms differ.
    """
    pair = Group(group.inputs, group.continuations[:2])
    was_training = lm.model.training
    lm.model.eval()
    try:
        packed = log_probs(lm.model, [pair])[0]
        plain = duplicated_log_probs(lm.model, [pair], answer_logits_only=True)[0]
    finally:
        lm.model.train(was_training)
    difference, tolerance = relative_difference(packed, plain), TOLERANCES[lm.model.dtype]
    # Not `>`: a difference that is no number must not pass.
    if not difference <= tolerance:
        raise ValueError(_message(lm, packed, plain, difference, tolerance))
    return difference


def relative_difference(packed: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    """The worst continuation's root mean square difference of token log-probabilities, over that of the plain
    ones or 1, whichever is larger; NaN if any is."""
    return float(
        torch.stack(
            [
                _root_mean_square(ours - theirs) / _root_mean_square(theirs).clamp(min=1.0)
                for ours, theirs in zip(packed, plain, strict=True)
            ]
        ).max()
    )


def _root_mean_square(values: Tensor) -> Tensor:
    return values.double().square().mean().sqrt()


def _message(
    lm: VideoLM, packed: Sequence[Tensor], plain: Sequence[Tensor], difference: float, tolerance: float
) -> str:
    sums = [
        f"{name} {', '.join(f'{float(answer.sum()):.4g}' for answer in form)}"
        for name, form in (("packed", packed), ("plain", plain))
    ]
    dtype = str(lm.model.dtype).removeprefix("torch.")
    return (
        f"model.path: {type(lm.model).__name__} gives other log-probabilities with a shared prefix than with "
        f"one sequence per answer: relative difference {difference:.2g}, tolerance {tolerance:g} in {dtype} "
        f"(sums: {'; '.join(sums)}). Training it so would be wrong; give a checkpoint of another family"
    )
