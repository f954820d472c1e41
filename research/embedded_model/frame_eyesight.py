"""Eyesight of a tower that sees one frame at a time: the language model learns to put two looks together.

Every visual token names what its frame shows: setting, colour and shape as they are now, place and size.
After NUM_LAYERS layers of the language model every token of an event's second look names the event: the
colour and the shape of its thing, its setting, its action. A token of a first look names no action, and says
so: two looks at two events must not pass for one. Neighbouring events differ in their settings, as they do
in every story.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from research.embedded_model.architectures import sight_parameters
from research.embedded_model.eyesight import ALL_ACTIONS, BATCH, Average, labels
from research.embedded_model.lessons import BASE_SEED
from research.embedded_model.tokenizer import VIDEO
from tempo.model.chat import VideoLM
from tempo.model.prefix import inner_model, language_model
from tempo.synthetic.drawing import appearance, event_frames
from tempo.synthetic.world import COLOURS, SETTINGS, SHAPES, Event, make_story

#: What a visual token names of its frame, with the number of classes; a shape that is not there has a class.
FRAME_NAMES = {
    "setting": 8,
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "x": 10,
    "y": 10,
    "size": 3,
}
#: What the language model names of an event; the last action is that of a first look.
EVENT_NAMES = {
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "setting": len(SETTINGS),
    "action": len(ALL_ACTIONS) + 1,
}
#: After how many of its layers the language model names events.
NUM_LAYERS = 2
#: Events of a video, drawn step by step; all steps have BATCH events.
LENGTHS = (1, 2, 4, 8)
IGNORED = -100
#: Marks what a token need not name.
IGNORED = -100

Looks = tuple[np.ndarray, np.ndarray, np.ndarray]


class FrameLooks(Dataset[Looks]):
    """Batches of videos uint8 [B, 2 E, size, size, 3], labels of frames [B, 2 E, 6] and looks [B, 2 E, 4]."""

    def __init__(self, num_steps: int, seed: tuple[int, ...], size: int, looks: tuple[float, float]) -> None:
        self.num_steps, self.seed, self.size, self.looks = num_steps, seed, size, looks

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Looks:
        rng = np.random.default_rng([*self.seed, 2, step])
        length = int(rng.choice(LENGTHS))
        videos = [self._video(rng, length) for _ in range(BATCH // length)]
        frames, shown, told = zip(*videos, strict=True)
        return np.stack(frames), np.array(shown), np.array(told)

    def _video(self, rng: np.random.Generator, length: int) -> tuple[np.ndarray, list[Any], list[Any]]:
        story = make_story(BASE_SEED, int(rng.integers(2**40)), num_shots=(length, length))
        frames, shown, told = [], [], []
        for event in story.events:
            times = tuple(float(t) for t in rng.uniform(-0.08, 0.08, size=2) + self.looks)
            frames.append(event_frames(event, times, size=self.size))
            shown += [frame_labels(event, time) for time in times]
            told += [(IGNORED, IGNORED, IGNORED, len(ALL_ACTIONS)), labels(event)]
        return np.concatenate(frames), shown, told


def frame_labels(event: Event, time: float) -> tuple[int, ...]:
    """Class numbers of FRAME_NAMES at a time; place and size of a thing that is not there are ignored."""
    setting = SETTINGS.index(event.setting)
    colour, x, y, radius = appearance(event, time)
    if radius == 0:
        return setting, len(COLOURS), len(SHAPES), IGNORED, IGNORED, IGNORED
    column, row = (min(9, max(0, int((along - 0.15) / 0.07))) for along in (x, y))
    size = (radius > 0.16) + (radius > 0.2)
    return setting, COLOURS.index(colour), SHAPES.index(event.shape), column, row, size


def right_angles(counts: list[int], width: int) -> list[Tensor]:
    """For each count so many unit vectors [count, width], all at right angles to each other."""
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(6)))[0]
    return list(basis[: sum(counts)].split(counts))


def train_frame_eyesight(
    lm: VideoLM, looks: FrameLooks, *, learning_rate: float, average: Average, num_loaders: int = 1
) -> None:
    """Trains the sight and the first layers of the language model in place; prints shares of right names.

    `average` takes the parameters after the backward pass, for training in several processes.
    """
    width, device = lm.model.config.text_config.hidden_size, lm.model.device
    counts = [*FRAME_NAMES.values(), *EVENT_NAMES.values()]
    tables = [table.to(device) for table in right_angles(counts, width)]
    sharpness = nn.Parameter(torch.tensor([3.0, 3.0], device=device))
    sight = [*sight_parameters(lm.model), sharpness]
    layers = [p for layer in language_model(lm.model).layers[:NUM_LAYERS] for p in layer.parameters()]
    optimizer = torch.optim.AdamW([{"params": sight}, {"params": layers}], learning_rate, weight_decay=0.02)
    # The language model's share of the rate is that of its lessons.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [learning_rate, 0.6 * learning_rate], total_steps=len(looks), pct_start=0.1
    )
    right = torch.zeros(len(tables), device=device)
    loader = DataLoader(looks, batch_size=None, num_workers=num_loaders, prefetch_factor=4)
    for step, batch in enumerate(loader):
        guesses = _guesses(lm, batch, tables, sharpness)
        torch.stack([F.cross_entropy(guess, truth) for guess, truth in guesses]).sum().backward()
        average([*sight, *layers], [])
        nn.utils.clip_grad_norm_([*sight, *layers], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        hits = torch.stack([_share(guess, truth) for guess, truth in guesses])
        right = hits if step == 0 else 0.95 * right + 0.05 * hits
        if step % 100 == 99:
            names = [*(f"frame {name}" for name in FRAME_NAMES), *EVENT_NAMES]
            shares = " ".join(f"{n} {v:.3f}" for n, v in zip(names, right, strict=True))
            print(f"eyesight step {step + 1} {shares}", flush=True)


def _guesses(
    lm: VideoLM, batch: list[Tensor], tables: list[Tensor], sharpness: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Guess and truth of every kind of name: those of frames, then those of events."""
    frames, shown, told = batch
    seen_BTPC, read_BTPC = _views(lm, frames)
    cut = len(FRAME_NAMES)
    return [
        *_named(seen_BTPC, shown, tables[:cut], sharpness[0]),
        *_named(read_BTPC, told, tables[cut:], sharpness[1]),
    ]


def _views(lm: VideoLM, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Visual tokens [B, T, P, C] of frames [B, T, H, W, 3], as they are and after NUM_LAYERS layers."""
    num_videos, num_frames = frames.shape[:2]
    videos = list(frames.permute(0, 1, 4, 2, 3))
    pixels = lm.processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
    core, text = inner_model(lm.model), language_model(lm.model)
    tokens_BLC = core.get_video_features(**pixels.to(lm.model.device), return_dict=True).pooler_output
    # The last token of a video is the separator, which no frame owns.
    seen_BTPC = tokens_BLC[:, :-1].unflatten(1, (num_frames, -1))
    before = lm.tokenizer(lm.prompt_text("", with_video=True).split(VIDEO)[0])["input_ids"]
    words_BLC = text.embed_tokens(torch.tensor([before], device=tokens_BLC.device)).expand(num_videos, -1, -1)
    whole_BLC = torch.cat([words_BLC, tokens_BLC[:, :-1]], dim=1)
    hidden = text(inputs_embeds=whole_BLC, use_cache=False, output_hidden_states=True).hidden_states
    return seen_BTPC, hidden[NUM_LAYERS][:, len(before) :].unflatten(1, (num_frames, -1))


def _named(
    views_BTPC: Tensor, truth_BTN: Tensor, tables: list[Tensor], sharpness: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """For each kind of name the guesses of all tokens [B T P, classes] and the truth [B T P]."""
    directions = sharpness.exp() * F.normalize(views_BTPC, dim=-1)
    truth = truth_BTN.to(views_BTPC.device)[:, :, None].expand(-1, -1, views_BTPC.shape[2], -1)
    return [((directions @ table.T).flatten(0, 2), truth[..., i].flatten()) for i, table in enumerate(tables)]


def _share(guess: Tensor, truth: Tensor) -> Tensor:
    counted = truth != IGNORED
    return (guess.argmax(1) == truth)[counted].float().mean()
