"""The sections of the configuration, one per stage; each states its defaults and refuses bad values."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tempo.records import Kind

#: Names of phases and baselines become folders.
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


def _check_range(min_shots: int, max_shots: int) -> None:
    if min_shots > max_shots:
        raise ValueError(f"min_shots {min_shots} is over max_shots {max_shots}: no video could pass")


class Section(BaseModel):
    """A part of the configuration; frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """What holds for the whole run. `num_workers = 0` means one per core."""

    seed: int = Field(0, ge=0)
    num_workers: int = Field(0, ge=0)


class ModelConfig(Section):
    """A Hugging Face video-language checkpoint, by path or hub name; `embedded` is the package's own."""

    path: str = "embedded"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


class SyntheticConfig(Section):
    """The embedded world: `num_videos` stories to learn from and `num_held_out` to evaluate on.

    `order_fidelity` is the share of instruction answers about several events that tell their true order; the
    others tell a random one. Instruction data of the world, like that of the field, seldom depends on order.
    """

    num_videos: int = Field(160, ge=1)
    num_held_out: int = Field(60, ge=1)
    min_shots: int = Field(4, ge=2)
    max_shots: int = Field(16, le=16)
    plain_share: float = Field(0.1, ge=0, le=1)
    order_fidelity: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> SyntheticConfig:
        _check_range(self.min_shots, self.max_shots)
        return self


class VideosConfig(Section):
    """Files and folders to take videos from; folders are searched to any depth."""

    paths: tuple[str, ...] = ()
    extensions: tuple[str, ...] = (
        "mp4",
        "m4v",
        "mov",
        "mkv",
        "webm",
        "avi",
        "mpg",
        "mpeg",
        "ts",
        "flv",
        "wmv",
        "3gp",
    )


class FramesConfig(Section):
    """The frame store: what the model sees. A frame is taken in the middle of each 1 / `fps` seconds."""

    fps: float = Field(1.0, gt=0)
    max_frames: int = Field(600, ge=2)
    max_pixels: int = Field(128 * 128, ge=64, description="pixels of one stored frame at most")
    jpeg_quality: int = Field(95, ge=1, le=100)


class ShotsConfig(Section):
    """Shot detection and the shot filter (method.md, section 2)."""

    detector: Literal["content", "adaptive"] = "content"
    threshold: float | None = Field(None, gt=0, description="the detector's own default where unset")
    min_frames: int = Field(8, ge=1)
    min_seconds: float = Field(0.2, ge=0)
    min_grey_range: int = Field(10, ge=0, le=255)


class ClipsConfig(Section):
    """Temporal richness and grouping (method.md, section 2)."""

    min_shots: int = Field(4, ge=1)
    max_shots: int = Field(32, ge=1)
    max_shot_seconds: float = Field(16.0, gt=0)
    similarity: float = Field(0.8, gt=-1, le=1)
    min_clips: int = Field(4, ge=2)
    max_group_clips: int = Field(3, ge=1)
    group_share: int = Field(3, ge=1, description="a group may hold at most num_clips // group_share clips")

    @model_validator(mode="after")
    def _check(self) -> ClipsConfig:
        _check_range(self.min_shots, self.max_shots)
        return self


class SamplingConfig(Section):
    """How the model's answers are drawn. Temperature 0 is greedy."""

    temperature: float = Field(0.7, ge=0)
    repetition_penalty: float = Field(1.05, ge=1)
    batch_size: int = Field(32, ge=1)


class CaptionsConfig(SamplingConfig):
    """Differential captioning. A caption that comes out empty is drawn again `retries` times."""

    max_new_tokens: int = Field(512, ge=1)
    retries: int = Field(2, ge=0)


class PerturbationsConfig(Section):
    """Which perturbations are made; levels that would come out the same are merged."""

    kinds: tuple[Kind, ...] = ("drop", "shuffle", "reverse")
    levels: tuple[int, ...] = (16, 8, 4, 2)

    @model_validator(mode="after")
    def _check(self) -> PerturbationsConfig:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must name each kind at most once and one at least, got {self.kinds}")
        if not self.levels or min(self.levels) < 2 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be different whole numbers of at least 2, got {self.levels}")
        return self


class ResponsesConfig(SamplingConfig):
    """The fusion of clip captions into one paragraph, clean and perturbed."""

    max_new_tokens: int = Field(1024, ge=1)


class PairsConfig(Section):
    """The pair filter (method.md, section 2)."""

    max_length_ratio: float = Field(1.5, ge=1)
    drop_chosen_longer: bool = True


class PhaseConfig(Section):
    """One training phase; `tempo` runs the list in order and merges LoRA after each.

    `levels` and `kinds` choose the pairs of a DPO phase (empty: all). `nll_weight` adds the mean negative
    log-likelihood of the chosen answer; the released recipe has 1.0. `batch_size` counts groups: a group is
    the chosen answer of one video with all its rejected answers at one level, or one video's questions.
    """

    name: str = Field(pattern=NAME_PATTERN)
    objective: Literal["dpo", "sft"]
    levels: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ()
    learning_rate: float = Field(gt=0)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(4, ge=1)
    warmup_share: float = Field(0.05, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    lora_rank: int = Field(32, ge=0, description="0 trains the weights themselves")
    lora_alpha: int = Field(64, ge=1)
    train_vision: bool = False
    beta: float = Field(0.1, gt=0)
    nll_weight: float = Field(1.0, ge=0)
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _refuse_idle(self) -> PhaseConfig:
        idle = ["levels", "kinds", "beta", "nll_weight"] if self.objective == "sft" else []
        idle += [] if self.lora_rank else ["lora_alpha"]
        # Compared with the default, not with what was written: a run writes its defaults into config.toml.
        defaults = type(self).model_fields
        if given := [key for key in idle if getattr(self, key) != defaults[key].default]:
            raise ValueError(f"phase {self.name!r}: {', '.join(given)} would do nothing here; remove it")
        return self


class TrainingConfig(Section):
    """The ordered phases, and baselines that run some of them alone from the same start."""

    phases: tuple[PhaseConfig, ...] = ()
    baselines: dict[str, tuple[str, ...]] = {}
    instructions: str = Field("", description="JSONL of video_id or video, question, answer; for SFT phases")
    max_tokens: int = Field(
        16384, ge=64, description="longest packed row; a longer sample is refused by name"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases must have different names, got {names}")
        for baseline, wanted in self.baselines.items():
            if not re.fullmatch(NAME_PATTERN, baseline) or baseline in ("base", "tempo"):
                raise ValueError(
                    f"baselines.{baseline}: names are of {NAME_PATTERN}, base and tempo are taken"
                )
            if unknown := [name for name in wanted if name not in names]:
                raise ValueError(f"baselines.{baseline} names unknown phases {unknown}; there are {names}")
        return self


class EvaluationConfig(Section):
    """The benchmark: a JSONL file of samples beside its videos; the embedded world brings its own."""

    benchmark: str = ""


class ReportConfig(Section):
    """How much the report shows."""

    num_videos: int = Field(6, ge=0)
    num_pairs: int = Field(6, ge=0)
