"""Vision pretraining: trains the vision tower before the language model.

Each visual token learns to predict labels of its frames, such as color and shape. Each class of a label has a
fixed direction in the space of the tokens, orthogonal to all others: learned linear heads took twice as long
for shapes. No token attends to a later clip, so the tower learns nothing about the order of clips.

Qwen2.5-VL sees both frames of an event at once, and predicts color, shape, setting and action.
LLaVA-OneVision sees one frame at a time: its visual tokens predict the labels of the frame, and after
NUM_LAYERS layers of the language model the tokens of an event's second frame predict those of the event.
Tokens of first frames predict no action, so that frames of two different events are not mistaken for one
event.

B videos, T frames, P tokens of a frame, C channels, N labels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from research.embedded_model.models import FRAME_SIZE, vision_parameters
from tempo.model.chat import VideoLM
from tempo.model.prefix import inner_model, language_model
from tempo.synthetic.drawing import appearance, draw_event
from tempo.synthetic.world import ACTIONS, COLOURS, SETTINGS, SHAPES, Event, make_story

#: Times of the two frames of an event, from 0 to 1, as the frame store samples a two-second event at 1 fps.
FRAME_TIMES = (0.25, 0.75)
#: Runs use seeds below this one for their videos; the embedded models are trained on other stories.
TRAINING_SEED = 1_000_000

ALL_ACTIONS = tuple(action for actions in ACTIONS.values() for action in actions)
#: The labels of an event, with their numbers of classes.
EVENT_NAMES = {"color": len(COLOURS), "shape": len(SHAPES)}
EVENT_NAMES |= {"setting": len(SETTINGS), "action": len(ALL_ACTIONS)}
#: The labels of a single frame; an absent shape has a separate class.
FRAME_NAMES = {"setting": len(SETTINGS), "color": len(COLOURS) + 1, "shape": len(SHAPES) + 1}
FRAME_NAMES |= {"x": 10, "y": 10, "size": 3}
#: Layers of the language model after which tokens predict event labels, if the tower sees single frames.
NUM_LAYERS = 2
#: Number of events in a training step, and the lengths of stories that they are divided into.
BATCH_SIZE, STORY_LENGTHS = 64, (1, 2, 4, 8)
#: The class number of labels that are not trained.
IGNORED = -100

Guesses: TypeAlias = list[tuple[Tensor, Tensor]]


class VisionExamples(Dataset[tuple[np.ndarray, ...]]):
    """Batches of frames and labels: of events (both frames at once), or with `by_frame` of stories.

    By event: frames uint8 [B, 2, H, W, 3] and event labels [B, 4]. By frame: frames [B, T, H, W, 3], frame
    labels [B, T, 6] and event labels [B, T, 4].
    """

    def __init__(self, num_steps: int, seed: int, *, by_frame: bool) -> None:
        self.num_steps, self.seed, self.by_frame = num_steps, seed, by_frame

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([self.seed, 0, 2 if self.by_frame else 1, step])
        if not self.by_frame:
            events = [random_event(rng) for _ in range(BATCH_SIZE)]
            times_B2 = (rng.uniform(-0.08, 0.08, size=(BATCH_SIZE, 2)) + FRAME_TIMES).tolist()
            drawn = zip(events, times_B2, strict=True)
            frames = [event_frames(event, times) for event, times in drawn]
            return np.stack(frames), np.array([event_labels(event) for event in events])
        length = int(rng.choice(STORY_LENGTHS))
        stories = [_story(rng, length) for _ in range(BATCH_SIZE // length)]
        return tuple(np.stack(part) for part in zip(*stories, strict=True))


def event_frames(event: Event, times: Sequence[float]) -> np.ndarray:
    """Frames uint8 [T, FRAME_SIZE, FRAME_SIZE, 3] of an event at these T times."""
    images, size = (draw_event(event, time) for time in times), (FRAME_SIZE, FRAME_SIZE)
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])


def _story(rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    story = make_story(TRAINING_SEED, int(rng.integers(2**40)), num_shots=(length, length))
    frames, of_frames, of_events = [], [], []
    for event in story.events:
        times = (rng.uniform(-0.08, 0.08, size=2) + FRAME_TIMES).tolist()
        frames.append(event_frames(event, times))
        of_frames += [frame_labels(event, time) for time in times]
        of_events += [(IGNORED, IGNORED, IGNORED, len(ALL_ACTIONS)), event_labels(event)]
    return np.concatenate(frames), np.array(of_frames), np.array(of_events)


def random_event(rng: np.random.Generator) -> Event:
    """An event whose parts are drawn uniformly; the aspect first, so that aspects are equally frequent."""
    aspect = str(rng.choice(list(ACTIONS)))
    color = str(rng.choice(COLOURS))
    actions = [action for action in ACTIONS[aspect] if action != f"turns {color}"]
    parts = {"setting": rng.choice(SETTINGS), "shape": rng.choice(SHAPES), "action": rng.choice(actions)}
    values = {name: str(value) for name, value in parts.items()} | {"colour": color, "aspect": aspect}
    return Event.model_validate(values | {"drift": float(rng.uniform(-1, 1))})


def event_labels(event: Event) -> tuple[int, int, int, int]:
    """The class numbers of EVENT_NAMES."""
    color, shape = COLOURS.index(event.colour), SHAPES.index(event.shape)
    return color, shape, SETTINGS.index(event.setting), ALL_ACTIONS.index(event.action)


def frame_labels(event: Event, time: float) -> tuple[int, ...]:
    """The class numbers of FRAME_NAMES at a time from 0 to 1; an absent shape has no position and size."""
    setting = SETTINGS.index(event.setting)
    color, x, y, radius = appearance(event, time)
    if radius == 0:
        return setting, len(COLOURS), len(SHAPES), IGNORED, IGNORED, IGNORED
    column, row = (min(9, max(0, int((along - 0.15) / 0.07))) for along in (x, y))
    size = (radius > 0.16) + (radius > 0.2)
    return setting, COLOURS.index(color), SHAPES.index(event.shape), column, row, size


def directions(counts: list[int], width: int, *, seed: int) -> list[Tensor]:
    """Orthogonal unit vectors, one for each class of each label: a tensor [count, width] per count."""
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]
    return list(basis[: sum(counts)].split(counts))


def pretrain_vision(
    lm: VideoLM, examples: VisionExamples, *, learning_rate: float, num_loaders: int = 1
) -> None:
    """Trains vision tower and projector in place; with `by_frame` also the language model's first layers.

    Prints the accuracy of each label every 100 steps.
    """
    device, counts = lm.model.device, list(EVENT_NAMES.values())
    names, layers = list(EVENT_NAMES), list[nn.Parameter]()
    if examples.by_frame:
        # The additional last action means that an event has only begun.
        counts = [*FRAME_NAMES.values(), *counts[:3], counts[3] + 1]
        names = [*(f"frame {name}" for name in FRAME_NAMES), *names]
        layers = [p for layer in language_model(lm.model).layers[:NUM_LAYERS] for p in layer.parameters()]
    seed = 6 if examples.by_frame else 5
    tables = [t.to(device) for t in directions(counts, lm.model.config.text_config.hidden_size, seed=seed)]
    sharpness = nn.Parameter(torch.tensor([3.0, 3.0], device=device))
    parameters = [*vision_parameters(lm.model), sharpness]
    groups, rates = [{"params": parameters}], [learning_rate]
    if layers:
        # Later, the language model is trained with about this share of the vision tower's rate.
        groups, rates = [*groups, {"params": layers}], [learning_rate, 0.6 * learning_rate]
    optimizer = torch.optim.AdamW(groups, learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=len(examples), pct_start=0.1)
    guess = _guess_by_frame if examples.by_frame else _guess_events
    right = torch.zeros(len(names), device=device)
    loader = DataLoader(examples, batch_size=None, num_workers=num_loaders, prefetch_factor=4)
    for step, batch in enumerate(loader):
        guesses = guess(lm, batch, tables, sharpness)
        torch.stack([F.cross_entropy(logits, truth) for logits, truth in guesses]).sum().backward()
        nn.utils.clip_grad_norm_([*parameters, *layers], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        hits = [(logits.argmax(1) == truth)[truth != IGNORED].float().mean() for logits, truth in guesses]
        right = torch.lerp(right, torch.stack(hits), 0.05 if step else 1.0)
        if step % 100 == 99:
            shares = " ".join(f"{name} {value:.3f}" for name, value in zip(names, right, strict=True))
            print(f"vision step {step + 1} {shares}", flush=True)


def _guess_events(lm: VideoLM, batch: list[Tensor], tables: list[Tensor], sharpness: Tensor) -> Guesses:
    """Logits and truth of all labels, from the mean of a clip's tokens and from each token."""
    tokens_BPC = torch.stack(list(_visual_tokens(lm, batch[0])))
    views_BPC = torch.cat([tokens_BPC.mean(1, keepdim=True), tokens_BPC], dim=1)
    return _compare(views_BPC[:, None], batch[1][:, None], tables, sharpness[0])


def _guess_by_frame(lm: VideoLM, batch: list[Tensor], tables: list[Tensor], sharpness: Tensor) -> Guesses:
    """Logits and truth: frame labels from visual tokens, event labels from tokens after NUM_LAYERS layers."""
    frames, of_frames, of_events = batch
    num_videos, num_frames = frames.shape[:2]
    text = language_model(lm.model)
    # The last token of a video is a separator.
    tokens_BLC = _visual_tokens(lm, frames)[:, :-1]
    prompt = lm.template.tokenize(lm.template.render("").split("<|video_pad|>")[0])["input_ids"]
    words_BLC = text.embed_tokens(torch.tensor([prompt], device=tokens_BLC.device)).expand(num_videos, -1, -1)
    whole_BLC = torch.cat([words_BLC, tokens_BLC], dim=1)
    hidden = text(inputs_embeds=whole_BLC, use_cache=False, output_hidden_states=True).hidden_states
    read_BTPC = hidden[NUM_LAYERS][:, len(prompt) :].unflatten(1, (num_frames, -1))
    seen_BTPC, cut = tokens_BLC.unflatten(1, (num_frames, -1)), len(FRAME_NAMES)
    guesses = _compare(seen_BTPC, of_frames, tables[:cut], sharpness[0])
    return guesses + _compare(read_BTPC, of_events, tables[cut:], sharpness[1])


def _visual_tokens(lm: VideoLM, frames: Tensor) -> Any:
    videos = list(frames.permute(0, 1, 4, 2, 3))
    pixels = lm.processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
    features = inner_model(lm.model).get_video_features(**pixels.to(lm.model.device), return_dict=True)
    return features.pooler_output


def _compare(views_BTPC: Tensor, truth_BTN: Tensor, tables: list[Tensor], sharpness: Tensor) -> Guesses:
    """For each label, the logits of all tokens [B T P, classes] and their truth [B T P]."""
    units_BTPC = sharpness.exp() * F.normalize(views_BTPC, dim=-1)
    truth = truth_BTN.to(views_BTPC.device)[:, :, None].expand(-1, -1, views_BTPC.shape[2], -1)
    return [((units_BTPC @ table.T).flatten(0, 2), truth[..., i].flatten()) for i, table in enumerate(tables)]
