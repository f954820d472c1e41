"""The probe measures whether a model notices the order of time. It works on any videos, without labels.

The model describes a video, and the description is scored with the clean video and with perturbed ones. A
model that uses the order of time finds it more likely with the clean video; a model that ignores the video or
its order finds it equally likely. A probe measures how much a model notices, not whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from tempo.config import FramesConfig, PerturbationsConfig, SamplingConfig, VideosConfig
from tempo.core.hashing import derive_seed
from tempo.core.records import Skipped
from tempo.engine.types import SkipRecord
from tempo.evaluation.probe_report import Comparison, ProbeKind, ProbeReport, report_comparisons
from tempo.model.answers import Request
from tempo.model.chat import Prefix, VideoLM, log_probs
from tempo.model.generate import generate
from tempo.preference.perturbations import perturb_all
from tempo.preference.prompts import DESCRIBE
from tempo.preference.responses import Footage, frame_requests
from tempo.video.faults import attempt, check_file
from tempo.video.find import VideoFile, find_videos, video_id
from tempo.video.frames import Frames, sample_video

#: Number of videos whose frames are in memory at the same time, and which are described in one batch.
BATCH_SIZE = 8

#: Number of segments that are perturbed instead of clips: as many as the easiest level distinguishes.
NUM_SEGMENTS = max(PerturbationsConfig().levels)


def probe(
    model: VideoLM,
    videos: str | Path,
    *,
    frames: FramesConfig | None = None,
    prompt: str = DESCRIBE[1],
    num_videos: int = 100,
    max_new_tokens: int = 512,
    texts: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeReport:
    """Measures how much a model notices when videos are reversed, shuffled, shortened or frozen.

    `videos` is a file or folder, from which at most `num_videos` videos are drawn; `frames` are the settings
    in the section [frames]. `texts` (by video id) replace the model's own descriptions, which have at most
    `max_new_tokens` tokens. With the same arguments, two models see the same videos and perturbations.
    `progress` gets the numbers of videos done and in total. Raises ValueError if no video can be probed.
    """
    settings = frames or FramesConfig()
    found = map(str, find_videos([videos], VideosConfig().extensions))
    # Drawn by file name, so that a folder that was moved gives the same videos.
    drawn = sorted(found, key=lambda path: (derive_seed(seed, Path(path).name, "probe"), path))
    paths = sorted(drawn[:num_videos])
    comparisons, left_out, descriptions = list[Comparison](), list[Skipped](), dict[str, str]()
    for start in range(0, len(paths), BATCH_SIZE):
        batch = {
            path: attempt("probe", VideoFile(id=path), lambda file: read_video(file.id, settings))
            for path in paths[start : start + BATCH_SIZE]
        }
        left_out += [row for row in batch.values() if isinstance(row, Skipped)]
        readable = {path: row for path, row in batch.items() if not isinstance(row, Skipped)}
        known = _describe(model, readable, prompt, max_new_tokens) if texts is None else texts
        for path, (name, footage) in readable.items():
            if text := known.get(name):
                descriptions[name] = text
                comparisons += compare(model, footage, text, video=name, prompt=prompt, seed=seed)
            else:
                cut = "the answer is empty or was cut off; a larger --max-new-tokens may help"
                detail = cut if texts is None else f"no text is given for {name}"
                left_out.append(Skipped(id=path, stage="probe", reason="no description", detail=detail))
        progress(min(start + BATCH_SIZE, len(paths)), len(paths))
    left_out.sort(key=lambda row: row.id)
    if not comparisons:
        first = left_out[0]
        raise ValueError(f"no video can be probed: {first.id}: {first.reason}: {first.detail}")
    report = report_comparisons(comparisons, seed=seed)
    return report.model_copy(update={"left_out": tuple(left_out), "descriptions": descriptions})


def compare(
    model: VideoLM, footage: Footage, text: str, *, video: str, prompt: str, seed: int
) -> list[Comparison]:
    """One comparison of the likelihood of `text` per perturbation that changes the footage."""

    def score(request: Request) -> tuple[float, int]:
        prefix = Prefix(request.frames, request.prompt, fps=request.fps, seconds=request.seconds)
        with torch.no_grad():
            logp = log_probs(model, prefix, [text], reduction="none")[0]
        # Rounded, so that a difference within floating-point error is a tie.
        return round(float(logp.double().sum()), 4), len(logp)

    clean, num_tokens = score(Request(prompt, 0, footage.frames, footage.fps, footage.seconds))
    known = {"video": video, "num_tokens": num_tokens, "clean": clean}
    views = perturbed_views(footage, prompt=prompt, seed=derive_seed(seed, video, "probe"))
    return [
        Comparison(kind=kind, level=level, perturbed=score(request)[0], **known)
        for kind, level, request in views
    ]


def perturbed_views(footage: Footage, *, prompt: str, seed: int) -> Iterator[tuple[ProbeKind, int, Request]]:
    """Kind, level and request of every distinct perturbation of the footage, and of the frozen footage."""
    ask = frame_requests(footage, prompt=prompt)
    for made in perturb_all(footage.num_clips, PerturbationsConfig(), seed=seed):
        # None if the order of frames is unchanged, because only clips without frames moved.
        if request := ask(made.order, (), 0):
            yield made.kind, made.level, request
    middle_T = np.full(len(footage.frames), len(footage.frames) // 2)
    yield "frozen", 0, Request(prompt, 0, footage.frames[middle_T], footage.fps, footage.seconds)


def read_video(path: str, frames: FramesConfig) -> tuple[str, Footage]:
    """The id of a video, and its frames (two or more) in up to NUM_SEGMENTS segments of nearly equal length.

    Raises SkipRecord, OSError if the disk fails, and any error that libraries raise for a damaged file.
    """
    check_file(path)
    sampled = sample_video(path, frames, VideosConfig().timeout_seconds)
    if (count := len(sampled.jpegs)) < 2:
        detail = f"{count} at frames.fps = {frames.fps:g}, but at least 2 are needed; set a higher rate"
        raise SkipRecord("too few frames", detail)
    return video_id(path), segment(sampled)


def segment(frames: Frames) -> Footage:
    """The frames of a video in up to NUM_SEGMENTS segments of nearly equal length, in place of clips."""
    count = len(frames.jpegs)
    num_segments = min(count, NUM_SEGMENTS)
    segment_T = np.arange(count) * num_segments // count
    return Footage(frames.images, segment_T, num_segments, frames.fps, frames.seconds.tolist())


def _describe(
    model: VideoLM, batch: Mapping[str, tuple[str, Footage]], prompt: str, max_new_tokens: int
) -> dict[str, str]:
    """The model's greedy descriptions by video id, without those that were cut off."""
    shown = (footage for _, footage in batch.values())
    requests = [Request(prompt, 0, video.frames, video.fps, video.seconds) for video in shown]
    greedy = SamplingConfig(temperature=0, batch_size=BATCH_SIZE)
    answers = generate(model, requests, sampling=greedy, max_new_tokens=max_new_tokens)
    names = (name for name, _ in batch.values())
    # A truncated answer is not scored, because the model did not end its turn there.
    return {name: answer.text for name, answer in zip(names, answers, strict=True) if answer.is_whole}
