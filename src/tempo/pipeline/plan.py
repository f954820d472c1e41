"""The plan of a run: tokens, memory, time and disk of its steps, and what this machine lacks.

It is made from video headers and tensor shapes: videos become blank frames of the size that a run would
store, and go through the model's own processor. Memory comes from `tempo.training.memory`, time from assumed
`Rates`. No text exists yet: for memory, answers are as long as `max_new_tokens` allows; for time, they have
CAPTION_TOKENS or ANSWER_TOKENS tokens.
"""

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tempo.config import Config, DpoPhase, GrpoPhase, PerturbationsConfig, PhaseConfig
from tempo.core.records import Video
from tempo.engine.pool import check_engine
from tempo.engine.ranks import pick_device
from tempo.engine.types import SkipRecord, count_workers
from tempo.evaluation.held_out import REORDERINGS
from tempo.model.chat import Continuation, Prefix, VideoLM
from tempo.model.loading import check_device, load_processor, pick_dtype, read_config
from tempo.model.prefix import MAX_TOKENS, ContinuationTokens, Group, split_group
from tempo.pipeline.stages import STAGES, find_stage
from tempo.preference.prompts import DIFFERENCE, fusion
from tempo.synthetic.drawing import FPS, SHOT_FRAMES, SIZE
from tempo.training.examples import sft_examples
from tempo.training.instructions import Question, read_questions
from tempo.training.memory import Cost, Simulator
from tempo.video.decode import fit_size
from tempo.video.find import find_videos, read_header
from tempo.video.frames import frame_shape

#: Usual numbers of tokens of a caption and of an answer.
CAPTION_TOKENS, ANSWER_TOKENS = 100, 300

#: How often a model sees a held-out video: as filmed, perturbed and frozen for the probe, then as filmed and
#: reordered for the pairs.
NUM_SHOWN = 3 + len(PerturbationsConfig().kinds) * len(PerturbationsConfig().levels) + len(REORDERINGS)


@dataclass(frozen=True)
class Rates:
    """Speeds of one device and one process, and what is known about videos only after decoding them.

    `kept_per_video` counts segments of videos, and may be above 1. `num_clips` is for each of them.
    """

    flops_per_second: float
    memory_bytes_per_second: float
    kept_per_video: float
    source: str
    decoded_pixels_per_second: float = 1.5e8
    num_clips: float = 8.0
    jpeg_bytes_per_pixel: float = 0.5


def assumed_rates(config: Config, device: torch.device) -> Rates:
    """For a GPU 40 % of an A100's data sheet; for a CPU one core of the machine in docs/benchmarks.md."""
    speeds = (5e10, 1e10) if device.type == "cpu" else (0.4 * 312e12, 0.4 * 2e12)
    if config.synthetic:
        return Rates(*speeds, 1 - config.synthetic.plain_share, "synthetic.plain_share")
    num_kept = 8 if config.clips.source == "shots" else 21
    return Rates(*speeds, num_kept / 28, f"assumed, from {num_kept} of 28 files in benchmarks/coverage.py")


class Step(NamedTuple):
    """A stage or phase: tokens of its longest prompt or packed row, memory, and time.

    `advice` names settings with which it fits into memory; empty if it fits already.
    """

    name: str
    num_tokens: int
    cost: Cost
    seconds: float
    advice: str


class Plan:
    """The plan of a run about `videos` with one configuration, on one device with `device_bytes` of memory.

    Holds the processor, and the model without weights. `problems` are files that cannot be read and
    requirements that this machine does not meet.
    """

    def __init__(
        self,
        config: Config,
        videos: Sequence[Video],
        device: torch.device,
        device_bytes: int,
        problems: Sequence[str] = (),
    ) -> None:
        self.config, self.videos, self.problems = config, videos, problems
        self.device, self.device_bytes = device, device_bytes
        self.rates = rates = assumed_rates(config, device)
        path, trust = config.model.path, config.model.trust_remote_code
        self._lm = VideoLM(None, load_processor(path, trust_remote_code=trust))
        self._simulator = Simulator(
            read_config(path, trust_remote_code=trust),
            dtype=pick_dtype(config.model.dtype, device),
            on_gpu=device.type != "cpu",
            four_bit=config.model.quantization == "4bit",
        )
        self.num_kept = max(1, round(len(videos) * rates.kept_per_video))
        num_pixels = sum(video.duration_seconds * video.fps * video.width * video.height for video in videos)
        num_workers = count_workers(config.run.num_workers)
        self.decoding_seconds = num_pixels / rates.decoded_pixels_per_second / num_workers
        # Longer videos are divided into segments, except that imported pairs are about whole videos.
        limit = math.inf if config.pairs.import_from else 60 * config.clips.max_minutes
        used = [v.model_copy(update={"duration_seconds": min(v.duration_seconds, limit)}) for v in videos]
        self._shapes = sorted((frame_shape(v, config.frames) for v in used), key=lambda s: math.prod(s[:3]))
        most = config.frames.max_pixels
        sizes = {fit_size(video.width, video.height, max_pixels=most)[::-1] for video in videos}
        self._key_frame_size = max(sizes, key=math.prod)
        # Whether the video with most pixels or that with most frames has more tokens depends on the model.
        groups = [self._group(shape) for shape in {self._shapes[-1], max(self._shapes)}]
        self.longest = max(groups, key=lambda group: group.lengths[0])
        self.median = self._group(self._shapes[len(videos) // 2])

    def _group(self, shape: tuple[int, int, int, float]) -> Group:
        """The prompt of a video with blank frames of this shape, and a short answer."""
        blank = np.zeros((*shape[:3], 3), np.uint8)
        return self._lm.group(Prefix(blank, self.config.responses.prompts[0], fps=shape[3]), ["."])

    def steps(self) -> Iterator[Step]:
        """The stages in which the model of this machine works, and the training phases, in order.

        The evaluation is that of all models on held-out videos, without benchmarks and descriptions.
        """
        config, rank = self.config, 0
        made = config.perturbations
        num_pairs = len(made.kinds) * len(made.levels)
        num_answers = {"captions": self.rates.num_clips, "responses": 1 + num_pairs}
        for stage, count in num_answers.items():
            if self.config.endpoint is None and not find_stage(stage).idle(self.config):
                yield self._generation(stage, count * self.num_kept)
        if config.audit.max_model_pairs:
            num_videos = min(self.num_kept, math.ceil(config.audit.max_model_pairs / num_pairs))
            text = self._lm.group(Prefix(None, config.responses.prompts[0]), ["."])
            yield self._scoring("audit", [text, text], 1 + num_pairs, num_videos)
        for phase in config.training.phases:
            yield self._training(phase, rank)
            rank = rank + phase.lora_rank if phase.lora_rank else 0
        if share := config.evaluation.held_out_share:
            num_videos = min(config.evaluation.max_held_out, math.ceil(share * self.num_kept))
            num_models = 1 + bool(config.training.phases) + len(config.training.baselines)
            count = NUM_SHOWN * num_videos * num_models
            yield self._scoring("evaluation", [self.longest, self.median], 1, count)

    def _generation(self, stage: str, num_answers: float) -> Step:
        settings, inputs, advice = getattr(self.config, stage), self._inputs(stage), ""
        size, most = settings.batch_size, settings.max_new_tokens
        cost = smaller = self._simulator.generate(inputs, batch_size=size, max_new_tokens=most)
        while smaller.peak_bytes > self.device_bytes and size > 1:
            size //= 2
            smaller = self._simulator.generate(inputs, batch_size=size, max_new_tokens=most)
            advice = f"{stage}.batch_size = {size}"
        if smaller.peak_bytes > self.device_bytes:
            advice = 'model.quantization = "4bit", or a smaller frames.max_total_pixels'
        # Each new token reads all weights and the cache.
        num_tokens = min(most, CAPTION_TOKENS if stage == "captions" else ANSWER_TOKENS)
        reading = num_tokens * (cost.weights_bytes + cost.cache_bytes) / self.rates.memory_bytes_per_second
        batch_seconds = cost.flops / self.rates.flops_per_second + reading
        seconds = math.ceil(num_answers / settings.batch_size) * batch_seconds
        return Step(stage, inputs["input_ids"].shape[1], cost, seconds, advice)

    def _scoring(self, name: str, prompts: Sequence[Group], num_answers: int, count: int) -> Step:
        """The likelihood of the answers to `count` prompts; `prompts` are the longest and the median one."""
        most, advice = self.config.responses.max_new_tokens, ""
        answers = (ContinuationTokens((0,) * most),) * num_answers
        row = split_group(Group(prompts[0].inputs, answers), max_tokens=MAX_TOKENS)[0]
        cost = self._simulator.score(row)
        if cost.peak_bytes > self.device_bytes:
            advice = 'model.quantization = "4bit", or a smaller frames.max_total_pixels'
        usual = prompts[1].lengths[0] + num_answers * min(ANSWER_TOKENS, most)
        seconds = count * cost.flops * usual / _size(row) / self.rates.flops_per_second
        return Step(name, _size(row), cost, seconds, advice)

    def _inputs(self, stage: str) -> dict[str, Tensor]:
        """The longest prompt: key frames of two clips or of all, frames of the whole video, or captions."""
        form = "pair" if stage == "captions" else self.config.responses.input_form
        count, height, width, fps = self._shapes[-1]
        if form != "video":
            height, width = self._key_frame_size
        if form == "captions":
            caption = " ".join(["a"] * min(CAPTION_TOKENS, self.config.captions.max_new_tokens))
            prompt = fusion([caption] * math.ceil(self.rates.num_clips))
            return self._lm.inputs([self._lm.template.render(prompt, with_video=False)])
        count = {"pair": 4, "clips": 2 * math.ceil(self.rates.num_clips)}.get(form, count)
        blank = np.zeros((count, height, width, 3), np.uint8)
        return self._lm.inputs([self._lm.template.render(DIFFERENCE)], [Prefix(blank, "", fps=fps)])

    def _training(self, phase: PhaseConfig, old_rank: int) -> Step:
        (num_examples, answers), row = self._examples(phase), self._row(phase)
        same = _without_rates(phase)
        cost, num_tokens, advice = self._cost(same), sum(map(_size, row)), ""
        old = cost.adapters_bytes * old_rank // max(phase.lora_rank, 1)
        cost = replace(cost, adapters_bytes=cost.adapters_bytes + old)
        num_steps = phase.epochs * math.ceil(num_examples / phase.batch_size)
        # `cost` is that of a step on the longest videos; most have the median length and shorter answers.
        usual = self.median.lengths[0] + sum(min(ANSWER_TOKENS, len(a.token_ids)) for a in answers)
        share = min(1.0, phase.batch_size * usual / (num_tokens * math.ceil(phase.batch_size / len(row))))
        if cost.peak_bytes > self.device_bytes:
            advice = self._fitting(same)
        if num_tokens > self.config.training.max_tokens:
            advice = f"training.max_tokens = {num_tokens}, or a smaller frames.max_total_pixels"
        seconds = num_steps * cost.flops * share / self.rates.flops_per_second
        if isinstance(phase, GrpoPhase):
            # Sampling: each new token of a batch reads all weights.
            num_batches = math.ceil(phase.batch_size * len(answers) / self.config.responses.batch_size)
            reading = ANSWER_TOKENS * cost.weights_bytes / self.rates.memory_bytes_per_second
            seconds = seconds * phase.num_updates + num_steps * num_batches * reading
        return Step(phase.name, num_tokens, cost, seconds, advice)

    @cache  # noqa: B019 - there is one plan in a process
    def _cost(self, phase: PhaseConfig) -> Cost:
        """The cost of the longest step of a phase, which is `_without_rates`."""
        row = self._row(phase)
        return self._simulator.train(row, phase, num_rows=math.ceil(phase.batch_size / len(row)))

    def _row(self, phase: PhaseConfig) -> list[Group]:
        """The longest packed row: as many of the longest videos as fit, then median ones."""
        answers, limit = tuple(self._examples(phase)[1]), self.config.training.max_tokens

        def shortened(group: Group) -> Group:
            # As many answers as fit, but at least one pair.
            most = max(limit, _size(Group(group.inputs, answers[:2])))
            return split_group(Group(group.inputs, answers), max_tokens=most)[0]

        longest, median = shortened(self.longest), shortened(self.median)
        row = [longest]
        for group in (longest, median):
            while len(row) < phase.batch_size and sum(map(_size, [*row, group])) <= limit:
                row.append(group)
        return row

    def _examples(self, phase: PhaseConfig) -> tuple[int, Sequence[ContinuationTokens]]:
        """The number of examples of a phase, and the continuations of the largest one."""
        if isinstance(phase, DpoPhase):
            made, size = self.config.perturbations, self.config.responses.max_new_tokens
            kinds, levels = len(phase.kinds or made.kinds), len(phase.levels or made.levels)
            rows, rejected = {
                "video": (1, kinds * levels), "level": (levels, kinds), "pair": (kinds * levels, 1)
            }[phase.grouping]  # fmt: skip
            return self.num_kept * rows, [ContinuationTokens((0,) * size)] * (1 + rejected)
        if isinstance(phase, GrpoPhase):
            size = self.config.responses.max_new_tokens
            return self.num_kept, [ContinuationTokens((0,) * size)] * phase.num_answers
        # The questions of a synthetic run do not exist yet: about six short ones for each video.
        count = 6 * len(self.videos)
        asked = [Question(str(n % len(self.videos)), "a " * 10, "a " * 20) for n in range(count)]
        if path := self.config.training.instructions:
            file = read_questions(Path(path), max_bad_share=self.config.run.max_bad_share)
            asked = [question for row in file.rows.values() for question in row]
        examples = sft_examples(asked[: self.config.training.max_instructions], phase)
        most = max((example.questions for example in examples), key=lambda questions: len(str(questions)))
        texts = [Continuation(answer, question) for question, answer in most]
        return len(examples), self._lm.group(Prefix(None, ""), texts).continuations

    @cache  # noqa: B019 - there is one plan in a process
    def _fitting(self, phase: PhaseConfig) -> str:
        """The settings with which a phase fits; each is tried in addition to those before it."""
        plan, config, found = self, self.config, dict[str, object]()
        pixels = math.prod(self._shapes[-1][:3])
        options = [
            ("", "gradient_checkpointing", True),
            ("", "lora_rank", phase.lora_rank or 32),
            ("model", "quantization", "4bit"),
            *(("frames", "max_total_pixels", pixels // 2**n) for n in (1, 2, 3)),
        ]
        for section, key, value in options:
            part = getattr(config, section) if section else phase
            if getattr(part, key) == value:
                continue
            changed = part.model_copy(update={key: value})
            if section:
                config = config.model_copy(update={section: changed})
                plan = Plan(config, self.videos, self.device, self.device_bytes)
            else:
                phase = changed
            found[f"{section}.{key}".lstrip(".")] = value
            if plan._cost(phase).peak_bytes <= self.device_bytes:
                return ", ".join(f"{name} = {json.dumps(value)}" for name, value in found.items())
        return "several devices: see configs/accelerate/fsdp2.yaml"

    def disk_bytes(self, steps: Sequence[Step]) -> dict[str, int]:
        """Bytes on disk: frames, the state of the largest phase, what phases learned, the final model."""
        costs, phases = {step.name: step.cost for step in steps}, self.config.training.phases
        key_frames = self.num_kept * self.rates.num_clips * 2 * math.prod(self._key_frame_size)
        whole = sum(math.prod(frame_shape(video, self.config.frames)[:3]) for video in self.videos)
        sizes = {"frames": int((whole + key_frames) * self.rates.jpeg_bytes_per_pixel)}
        if phases:
            trained = [costs[phase.name] for phase in phases]
            plain = trained[0].weights_bytes
            sizes["checkpoint"] = max(cost.gradients_bytes + cost.optimizer_bytes for cost in trained)
            full = plain * sum(not phase.lora_rank for phase in phases)
            sizes["phases"] = full + max(cost.adapters_bytes for cost in trained)
            sizes["final model"] = plain
        return sizes


def _size(group: Group) -> int:
    return sum(group.lengths)


def _without_rates(phase: PhaseConfig) -> PhaseConfig:
    """The phase with the same values for what does not change the cost of a step."""
    levels = {"levels": ()} if isinstance(phase, DpoPhase) and phase.grouping != "video" else {}
    return phase.model_copy(update={"name": "-", "learning_rate": 1.0, "epochs": 1, **levels})


def make_plan(config: Config, *, device_bytes: int = 0) -> Plan:
    """The plan of a run on a device with this much memory, by default that of this machine.

    Reads headers of videos, and the configuration and processor of the model, but no weights. Raises
    ValueError if no video can be read.
    """
    videos, unreadable = read_videos(config)
    # With `device_bytes`, the plan is for a GPU of another machine.
    is_remote = bool(device_bytes) and config.model.device == "auto"
    device = torch.device("cuda") if is_remote else pick_device(config.model.device)
    problems = (*unreadable, *find_missing(config))
    return Plan(config, videos, device, device_bytes or memory_bytes(device), problems)


def read_videos(config: Config) -> tuple[list[Video], list[str]]:
    """The headers of all readable videos, and a line for each reason why other files cannot be read.

    The videos of a synthetic run do not exist yet: each is assumed to have the maximum number of shots.
    """
    if config.synthetic:
        seconds, size = config.synthetic.max_shots * SHOT_FRAMES / FPS, {"width": SIZE, "height": SIZE}
        video = Video(id="", path="", duration_seconds=seconds, fps=FPS, codec="h264", **size)
        return [video] * config.synthetic.num_videos, []
    videos, skipped = list[Video](), dict[str, list[str]]()
    for path in map(str, find_videos(config.videos.paths, config.videos.extensions)):
        try:
            videos.append(read_header(path, path))
        except SkipRecord as skip:
            skipped.setdefault(skip.reason, []).append(path)
    unreadable = [f"{len(paths)} files: {reason}, such as {paths[0]}" for reason, paths in skipped.items()]
    if not videos:
        raise ValueError(f"videos.paths: no file can be read. {'. '.join(unreadable)}")
    return videos, unreadable


def memory_bytes(device: torch.device) -> int:
    """The memory of a device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_missing(config: Config) -> list[str]:
    """What this machine lacks: packages, files, a GPU."""
    found = []
    if config.model.quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        found.append("model.quantization '4bit' needs bitsandbytes. Run: pip install bitsandbytes")
    checks: list[Callable[[], object]] = [partial(check_engine, config.run)]
    checks += [partial(check_device, config.model.device)]
    checks += [partial(stage.check, config) for stage in STAGES if not stage.idle(config)]
    for check in checks:
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    if pick_device(config.model.device).type == "cpu":
        found.append("no GPU: the model runs on the CPU")
    return found
