"""The probe: does a model notice the order of time? No labels are needed, and any video will do.

The model describes a video; then its own words are scored again, given the video as filmed and perturbed. The
words of a model that watches are likelier with the clean video; one that ignores the video, or looks only at
what is in it, finds both equally likely. It says how much a model notices, not whether what it says is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempo.config import PerturbationsConfig
from tempo.core.records import Frozen, Kind, Skipped
from tempo.core.seeds import derive_seed
from tempo.evaluation.descriptions import BATCH, Description, describe, given_text
from tempo.evaluation.probe_videos import Seen, VideoSet, choose_videos, left_out, read_video
from tempo.model.answers import Request
from tempo.model.chat import Prefix, VideoLM, log_probs
from tempo.preference.inputs import Footage, ask_footage
from tempo.preference.perturbations import perturb_all
from tempo.preference.prompts import DESCRIBE

#: `frozen`: every frame is the middle one; it has no level, which is written as 0.
ProbeKind = Literal[Kind, "frozen"]


class Comparison(Frozen):
    """Log-likelihoods (nats) of the description of `video`, given the clean and one perturbed video.

    `num_tokens` counts its tokens, end of turn included.
    """

    video: str
    kind: ProbeKind
    level: int
    num_tokens: int
    clean: float
    perturbed: float

    @property
    def margin(self) -> float:
        """By how many nats the description is likelier with the clean video."""
        return self.clean - self.perturbed

    @property
    def win(self) -> float:
        """1 if it is likelier with the clean video, 0 if with the perturbed one, 0.5 if neither."""
        return 0.5 + 0.5 * float(np.sign(self.margin))


@dataclass(frozen=True)
class ProbeSettings:
    """How many videos are probed, and with which words.

    `texts`, by video id, take the place of the model's own descriptions, so that several models can be
    compared on the same words; `max_new_tokens` limits its own.
    """

    prompt: str = DESCRIBE[1]
    num_videos: int = 100
    max_new_tokens: int = 512
    seed: int = 0
    texts: Mapping[str, str] | None = None


class Probed(NamedTuple):
    """What came out, and which videos were left out and why (their ids are paths)."""

    comparisons: list[Comparison]
    descriptions: list[Description]
    left_out: list[Skipped]


class View(NamedTuple):
    """A perturbed video as it is shown to the model."""

    kind: ProbeKind
    level: int
    request: Request


def probe(
    lm: VideoLM, videos: VideoSet, settings: ProbeSettings, progress: Callable[[int], None] = lambda _: None
) -> Probed:
    """Probes a model; `progress` is called with numbers of videos done.

    Two models with the same settings see the same videos, perturbed alike. Raises ValueError, with the first
    reason, if no video is left.
    """
    probed = Probed([], [], [])
    paths = choose_videos(videos.paths, settings.num_videos, seed=settings.seed)
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        seen = _readable(videos, batch, probed)
        for video, found in zip(seen, _descriptions(lm, seen, settings), strict=True):
            if isinstance(found, Skipped):
                probed.left_out.append(found)
                continue
            probed.descriptions.append(found)
            probed.comparisons.extend(
                compare(lm, video, found.text, prompt=settings.prompt, seed=settings.seed)
            )
        progress(len(batch))
    probed.left_out.sort(key=lambda drop: drop.id)
    if not probed.comparisons:
        first = probed.left_out[0]
        raise ValueError(
            f"none of {len(paths)} videos can be probed; {first.id}: {first.reason}: {first.detail}"
        )
    return probed


def compare(lm: VideoLM, video: Seen, text: str, *, prompt: str, seed: int) -> list[Comparison]:
    """One comparison per perturbation of the video that can be told from it."""
    footage = video.footage
    logp_clean = _log_probs(lm, Request(prompt, 0, footage.frames, footage.fps), text)
    return [
        Comparison(
            video=video.id,
            kind=view.kind,
            level=view.level,
            num_tokens=len(logp_clean),
            clean=_total(logp_clean),
            perturbed=_total(_log_probs(lm, view.request, text)),
        )
        for view in perturbed_views(footage, prompt=prompt, seed=derive_seed(seed, video.id, "probe"))
    ]


def perturbed_views(footage: Footage, *, prompt: str, seed: int) -> Iterator[View]:
    """The video reversed, shuffled and dropped at every level that disturbs it differently, and frozen."""
    ask = ask_footage(footage, prompt=prompt)
    for made in perturb_all(footage.num_clips, PerturbationsConfig(), seed=seed):
        # None where clips without a frame leave the frames in their order.
        if request := ask(made.order, 0):
            yield View(made.kind, made.level, request)
    middle_T = np.full(len(footage.frames), len(footage.frames) // 2)
    yield View("frozen", 0, Request(prompt, 0, footage.frames[middle_T], footage.fps))


def _readable(videos: VideoSet, paths: Sequence[str], probed: Probed) -> list[Seen]:
    """The videos that could be read and were not seen before; the others go to `probed.left_out`."""
    known = {row.id for row in probed.descriptions}
    seen: list[Seen] = []
    for path in paths:
        row = read_video(videos, path)
        if isinstance(row, Seen) and row.id in known:
            row = left_out(path, "duplicate", f"same content as another video, {row.id}")
        if isinstance(row, Skipped):
            probed.left_out.append(row)
        else:
            seen.append(row)
            known.add(row.id)
    return seen


def _descriptions(lm: VideoLM, seen: Sequence[Seen], settings: ProbeSettings) -> list[Description | Skipped]:
    if settings.texts is not None:
        return [given_text(video, settings.texts) for video in seen]
    return describe(lm, seen, prompt=settings.prompt, max_new_tokens=settings.max_new_tokens)


def _log_probs(lm: VideoLM, request: Request, text: str) -> Tensor:
    """Log-probabilities [num_tokens] of the text after video and prompt."""
    prefix = Prefix(request.frames, request.prompt, fps=request.fps)
    with torch.no_grad():
        return log_probs(lm, prefix, [text], reduction="none")[0]


def _total(logp: Tensor) -> float:
    """Rounded: two sums that differ by less than arithmetic's own noise are a tie."""
    return round(float(logp.double().sum()), 4)
