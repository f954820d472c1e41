"""The language model learns to read before it speaks of what it sees: fusing captions, short lists first.

Copying from a list is a circuit that a small model finds at once in lists of two and hardly ever in lists of
sixteen (docs/log.md), so the lists grow as soon as the last length is mastered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tempo.model.loading import VideoLM
from tempo.model.prefix import Group, log_probs
from tempo.preference.prompts import fusion
from tempo.synthetic import language
from tempo.synthetic.world import Event

LENGTHS = (2, 4, 8, 16)
#: Mean token loss at which a length counts as mastered.
MASTERED = 0.1
TOKENS_PER_STEP = 1500

#: Draws a story of between `least` and `most` events.
DrawEvents = Callable[[np.random.Generator, int, int], tuple[Event, ...]]


def fusion_group(lm: VideoLM, rng: np.random.Generator, draw: DrawEvents, *, most: int) -> Group:
    """A list of up to `most` captions in some order, and the paragraph that tells them in this order."""
    captions = [language.caption(event) for event in draw(rng, 1, most)]
    kept = [captions[i] for i in rng.permutation(len(captions))]
    return lm.question_group(None, [(fusion(kept), language.fuse(kept))], fps=1.0)


def train_reading(lm: VideoLM, draw: DrawEvents, *, seed: int, most_steps: int, learning_rate: float) -> None:
    """Trains the language model in place until all lengths are mastered or `most_steps` are over."""
    parameters = list(lm.model.model.language_model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    lengths = iter(LENGTHS)
    length, seen = next(lengths), 1.0
    for step in range(most_steps):
        rng = np.random.default_rng([seed, 2, step])
        groups: list[Group] = []
        while sum(sum(group.lengths) for group in groups) < TOKENS_PER_STEP:
            groups.append(fusion_group(lm, rng, draw, most=length))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50)
        loss = -torch.cat([logp for logps in log_probs(lm.model, groups) for logp in logps]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen = 0.9 * seen + 0.1 * float(loss.detach())
        if step % 50 == 49:
            print(f"reading step {step + 1} lists of up to {length}, loss {seen:.3f}", flush=True)
        if seen < MASTERED:
            length, seen = next(lengths, 0), 1.0
            if not length:
                break
