"""The probe measures whether a model notices the order of time. It works on any videos, without labels.

The model describes a video, and the description is scored with the clean video and with perturbed ones. A
model that uses the order of time finds it more likely with the clean video; a model that ignores the video or
its order finds it equally likely. A probe measures how much a model notices, not whether it is right.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from rich.table import Table

from tempo.config import FramesConfig, PerturbationsConfig, SamplingConfig, VideosConfig
from tempo.core.hashing import derive_seed
from tempo.core.records import Frozen, Kind, Skipped, file_of
from tempo.engine.types import SkipRecord
from tempo.evaluation.figures import MARGIN, Figure, Item, figure_table, make_figures, text_of
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

#: `frozen`: every frame is the middle one; its level is written as 0.
ProbeKind = Literal[Kind, "frozen"]

#: In the order of tables and charts.
KINDS: tuple[ProbeKind, ...] = ("reverse", "shuffle", "drop", "frozen")

#: The name of the share of comparisons in which the clean video is likelier; a tie is half a win.
WIN_RATE = "win rate"


class Comparison(Frozen):
    """Log-likelihoods (nats) of the description of `video`, given the clean and one perturbed video.

    `num_tokens` counts the tokens of the description, end of turn included.
    """

    video: str
    kind: ProbeKind
    level: int
    num_tokens: int
    clean: float
    perturbed: float

    @property
    def margin(self) -> float:
        """How many nats per token more likely the description is with the clean video."""
        return (self.clean - self.perturbed) / self.num_tokens

    @property
    def win(self) -> float:
        """1 if it is more likely with the clean video, 0 if with the perturbed one, 0.5 for a tie."""
        return 0.5 + 0.5 * float(np.sign(self.margin))


class ProbeReport(Frozen):
    """The results of a probe: a win rate and a margin of each kind, each kind and level, and all comparisons.

    A tie is half a win: a win rate of 50 % means that the model does not notice the change. `left_out` are
    videos that were not probed, each with its path as `id`; `descriptions` are the texts that were scored, by
    video id.
    """

    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[Skipped, ...] = ()
    descriptions: dict[str, str] = Field({})


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
    return ProbeReport(
        figures=probe_figures(comparisons, seed=seed),
        comparisons=tuple(comparisons),
        left_out=tuple(left_out),
        descriptions=descriptions,
    )


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


def probe_figures(comparisons: Sequence[Comparison], *, seed: int) -> tuple[Figure, ...]:
    """The win rate and the margin of each kind, of each kind and level, easiest first, and of all."""
    items: dict[str, list[Item]] = {}
    for kind in (*KINDS, "all"):
        rows = [row for row in comparisons if kind in (row.kind, "all")]
        levels = sorted({row.level for row in rows} - {0}, reverse=True)
        parts = {f"{kind}, r = {level}": [row for row in rows if row.level == level] for level in levels}
        for part, own in {kind: rows, **parts}.items():
            items[f"{WIN_RATE}, {part}"] = comparison_items(own, "win")
            items[f"{MARGIN}, {part}"] = comparison_items(own, "margin")
    return tuple(make_figures("probe", {"model": items}, seed=seed))


def comparison_items(comparisons: Iterable[Comparison], key: Literal["win", "margin"]) -> list[Item]:
    names = [(f"{row.video}/{row.kind}-{row.level:02d}", file_of(row.video)) for row in comparisons]
    return [Item(*name, getattr(row, key)) for name, row in zip(names, comparisons, strict=True)]


def probe_table(report: ProbeReport) -> Table:
    """One row per kind and level, and one for all, with intervals if there are enough videos."""
    rows: dict[str, list[str]] = {}
    for figure in report.figures:
        part = figure.name.partition(", ")[2]
        text = text_of(figure, figure.values["model"]).replace("\n", " ")
        rows.setdefault(part, [str(figure.num_videos)]).append(text)
    title = "how often, and by how much, a description is more likely with the clean video [95 % intervals]"
    cells = ([part, *texts] for part, texts in rows.items())
    return figure_table(title, ("", "videos", "win %", "nats per token"), cells)


def write_chart(report: ProbeReport, path: Path, *, title: str) -> None:
    """Draws win rates and margins by kind and level (.png or .svg); equal reports give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure as Chart

    # A fixed salt and no date or version in the metadata, so that the bytes depend only on the figures.
    with matplotlib.rc_context({"svg.hashsalt": "tempo"}):
        chart = Chart(figsize=(10, 3.5), layout="constrained")
        # A file name may contain dollar signs.
        chart.suptitle(title, parse_math=False)
        for axes, name in zip(chart.subplots(1, 2), (WIN_RATE, MARGIN), strict=True):
            # `frozen` has no levels and is a point; "all" comes first, because it has all levels, in order.
            for kind in ("all", *KINDS):
                start = f"{name}, {kind}" if kind == "frozen" else f"{name}, {kind}, r = "
                found = [row for row in report.figures if row.name.startswith(start)]
                values = [row.values["model"] for row in found]
                means = np.array([value.value for value in values])
                bounds = [value.interval or (np.nan, np.nan) for value in values]
                errors = np.abs(np.reshape(bounds, (-1, 2)) - means[:, None]).T
                places = [row.name.removeprefix(start) or kind for row in found]
                if found:
                    axes.errorbar(places, means, yerr=errors, marker="o", capsize=3, label=kind)
            axes.set(xlabel="level", ylabel=name)
            axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        chart.savefig(path, metadata={"Date" if path.suffix.lower() == ".svg" else "Software": None})
