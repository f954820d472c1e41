"""The vision tower learns to see before the language model learns to speak.

As with real Video LLMs, the tower comes pretrained: from two looks at one event it names colour, shape,
setting and action. Its visual tokens do so together and each by itself: the language model can then find a
thing and read what it does in one place. Every name has a direction of its own in the space of the tokens,
at right angles to all others; linear heads that are learned along took twice as long for shapes. The tower
sees one clip at a time, so it learns nothing about the order of clips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tempo.model.chat import VideoLM
from tempo.synthetic.drawing import event_frames
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES, Event

ALL_ACTIONS = tuple(action for actions in ACTIONS.values() for action in actions)
#: What a visual token learns to name.
NAMES = {"colour": COLOURS, "shape": SHAPES, "setting": SETTINGS, "action": ALL_ACTIONS}
#: Events of a step in one process.
BATCH = 64
#: Takes parameters whose gradients to average over processes, and figures to average along.
Average = Callable[[list[Any], list[float]], list[float]]


def random_event(rng: np.random.Generator) -> Event:
    """An event with every part drawn evenly, apart from its aspect: each of the four comes as often."""
    aspect = str(rng.choice(list(ACTIONS)))
    colour = str(rng.choice(COLOURS))
    actions = [action for action in ACTIONS[aspect] if action != f"turns {colour}"]
    parts = {"setting": rng.choice(SETTINGS), "shape": rng.choice(SHAPES), "action": rng.choice(actions)}
    return Event.model_validate(
        {"colour": colour, "aspect": aspect, "drift": float(rng.uniform(-1, 1))}
        | {name: str(value) for name, value in parts.items()}
    )


class Looks(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Batches of two looks uint8 [BATCH, 2, size, size, 3] and their labels [BATCH, 4]."""

    def __init__(self, num_steps: int, seed: tuple[int, ...], size: int, looks: tuple[float, float]) -> None:
        self.num_steps, self.seed, self.size, self.looks = num_steps, seed, size, looks

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([*self.seed, 1, step])
        events = [random_event(rng) for _ in range(BATCH)]
        times = rng.uniform(-0.08, 0.08, size=(BATCH, 2)) + self.looks
        frames = [
            event_frames(e, (float(a), float(b)), size=self.size)
            for e, (a, b) in zip(events, times, strict=True)
        ]
        return np.stack(frames), np.array([labels(event) for event in events])


def labels(event: Event) -> tuple[int, int, int, int]:
    """Class numbers of colour, shape, setting and action."""
    return (
        COLOURS.index(event.colour),
        SHAPES.index(event.shape),
        SETTINGS.index(event.setting),
        ALL_ACTIONS.index(event.action),
    )


def name_directions(width: int) -> list[torch.Tensor]:
    """For each of NAMES unit vectors [num_classes, width], all at right angles to each other."""
    counts = [len(names) for names in NAMES.values()]
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5)))[0]
    return list(basis[: sum(counts)].split(counts))


def train_eyesight(
    lm: VideoLM, looks: Looks, *, learning_rate: float, average: Average, num_loaders: int = 1
) -> None:
    """Trains the vision tower in place, where it is; prints the share of right names every 100 steps.

    `average` takes the parameters after the backward pass, for training in several processes.
    """
    model, device = lm.model, lm.model.device
    tables = [table.to(device) for table in name_directions(model.config.text_config.hidden_size)]
    sharpness = nn.Parameter(torch.tensor(3.0, device=device))
    parameters = [*model.model.visual.parameters(), sharpness]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(looks), pct_start=0.1
    )
    right = torch.zeros(len(NAMES), device=device)
    for step, (frames, truth) in enumerate(
        DataLoader(looks, batch_size=None, num_workers=num_loaders, prefetch_factor=4)
    ):
        videos = list(frames.permute(0, 1, 4, 2, 3))
        seen = lm.processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
        tokens = model.model.get_video_features(**seen.to(device), return_dict=True).pooler_output
        tokens_BTC = torch.stack(list(tokens))
        # The clip as a whole, then each token by itself.
        views_BTC = torch.cat([tokens_BTC.mean(1, keepdim=True), tokens_BTC], dim=1)
        directions_BTC = sharpness.exp() * F.normalize(views_BTC, dim=-1)
        guesses = [directions_BTC @ table.T for table in tables]
        truth_BT = truth.to(device)[:, None].expand(-1, views_BTC.shape[1], -1)
        losses = [F.cross_entropy(g.flatten(0, 1), truth_BT[..., i].flatten()) for i, g in enumerate(guesses)]
        loss = torch.stack(losses).sum()
        loss.backward()
        average(parameters, [])
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        hits = torch.stack([(g.argmax(2) == truth_BT[..., i]).float().mean() for i, g in enumerate(guesses)])
        right = hits if step == 0 else 0.95 * right + 0.05 * hits
        if step % 100 == 99:
            shares = " ".join(f"{n} {v:.3f}" for n, v in zip(NAMES, right, strict=True))
            print(f"eyesight step {step + 1} {shares}", flush=True)
