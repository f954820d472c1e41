"""The sections of the configuration, one per stage; each states its defaults and refuses bad values."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tempo.records import Kind

#: Names of phases and baselines become folders.
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"

#: Preference losses, and how the log-probabilities of an answer's tokens become one number.
Loss = Literal["sigmoid", "ipo", "hinge", "sppo"]
Length = Literal["sum", "mean", "ld"]


def _check_range(min_shots: int, max_shots: int) -> None:
    if min_shots > max_shots:
        raise ValueError(f"min_shots {min_shots} is over max_shots {max_shots}: no video could pass")


def _is_plain_url(url: str) -> bool:
    """Whether it is an address, a port that exists and a path, and nothing else."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", url):
        return False
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class Section(BaseModel):
    """A part of the configuration; frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """What holds for the whole run. `num_workers = 0` means one per core.

    `engine` is where stages run, and changes no result: in processes of this machine, or in Ray actors. Their
    Ray is started for the run, or is the cluster at `ray_address` (`host:port`, or `auto` on one of its
    machines), which all have videos, run directory and checkpoint under the same paths.
    """

    seed: int = Field(0, ge=0)
    num_workers: int = Field(0, ge=0)
    engine: Literal["local", "ray"] = "local"
    ray_address: str = Field("", pattern=r"^(auto|[^/\s]+:\d+)?$")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        port = self.ray_address.rpartition(":")[2]
        if port.isdigit() and not 0 < int(port) < 65536:
            raise ValueError(f"ray_address {self.ray_address!r}: a port is a number from 1 to 65535")
        if self.ray_address and self.engine != "ray":
            raise ValueError(f"ray_address {self.ray_address!r} would do nothing with engine {self.engine!r}")
        return self


class ModelConfig(Section):
    """A Hugging Face video-language checkpoint, by path or hub name; `embedded` is the package's own.

    `quantization = "4bit"` (extra `quantize`) holds its linear layers in NF4, also while LoRA is trained over
    them; what was learned is merged into the checkpoint's own weights.
    """

    path: str = "embedded"
    quantization: Literal["none", "4bit"] = "none"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


class EndpointConfig(Section):
    """A server that draws captions and responses in the place of the local model: docs/serving.md.

    It speaks OpenAI's chat completions under `url` and serves the checkpoint of `model.path` as `model`.
    `server` says which words it understands; `other` knows no repetition penalty. `key_variable` names the
    environment variable that holds the key; the key itself stands nowhere in a configuration.
    """

    url: str
    model: str = Field(min_length=1)
    server: Literal["vllm", "sglang", "lmdeploy", "transformers", "other"] = "vllm"
    key_variable: str = ""
    concurrency: int = Field(16, ge=1, le=1024)
    connect_timeout_seconds: float = Field(10.0, gt=0)
    timeout_seconds: float = Field(300.0, gt=0, description="of one attempt as a whole")
    retries: int = Field(5, ge=1)
    backoff_seconds: float = Field(1.0, gt=0, description="before the second attempt, then doubled")

    @model_validator(mode="after")
    def _check(self) -> EndpointConfig:
        # Neither message shows its value: a key written in the wrong place would be printed.
        if not _is_plain_url(self.url):
            raise ValueError(
                "url must be like http://host:8000/v1, without user, password or query; a key belongs into "
                "the environment variable that key_variable names"
            )
        if self.key_variable and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_variable):
            raise ValueError(
                "key_variable must be the name of an environment variable in capitals, never the key itself"
            )
        return self


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
    timeout_seconds: float = Field(120.0, gt=0, description="longest wait for the next picture of a video")


class FramesConfig(Section):
    """The frame store: what the model sees. A frame is taken in the middle of each 1 / `fps` seconds."""

    fps: float = Field(1.0, gt=0)
    max_frames: int = Field(600, ge=2)
    max_pixels: int = Field(128 * 128, ge=64, description="pixels of one stored frame at most")
    jpeg_quality: int = Field(95, ge=1, le=100)


class ShotsConfig(Section):
    """Shot detection and the shot filter (method.md, section 2)."""

    detector: Literal["content", "adaptive", "transnet"] = "content"
    threshold: float | None = Field(None, gt=0, description="the detector's own default where unset")
    min_frames: int = Field(8, ge=1)
    min_seconds: float = Field(0.2, ge=0)
    min_grey_range: int = Field(10, ge=0, le=255)

    @model_validator(mode="after")
    def _check(self) -> ShotsConfig:
        if self.detector == "transnet" and (self.threshold or 0) >= 1:
            raise ValueError(f"threshold {self.threshold:g} is no probability; 'transnet' takes 0 to 1")
        return self


class ClipsConfig(Section):
    """Temporal richness and grouping (method.md, section 2)."""

    min_shots: int = Field(4, ge=1)
    max_shots: int = Field(32, ge=1)
    max_shot_seconds: float = Field(16.0, gt=0)
    features: str = Field("embedded", min_length=1, description="or a SigLIP or CLIP checkpoint")
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
    """Differential captioning.

    A caption that comes out empty, cut or without its mark is drawn again, up to `retries` times; at
    temperature 0 the same words would come, so it is not.
    """

    max_new_tokens: int = Field(512, ge=1)
    retries: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _check(self) -> CaptionsConfig:
        default = type(self).model_fields["retries"].default
        if self.temperature == 0 and self.retries not in (0, default):
            raise ValueError(f"retries {self.retries} would do nothing at temperature 0; remove it")
        return self


class PerturbationsConfig(Section):
    """Which perturbations are made, and by which rule a level disturbs.

    `distinct`: never the original order, and levels that would come out the same are merged. `paper`: the
    released rule with its faults, for reproduction (method.md, section 3, faults 1, 2 and 4).
    """

    rule: Literal["distinct", "paper"] = "distinct"
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
    """The model's accounts of a video, clean and perturbed.

    `input_form` is what the perturbation is applied to. `captions`: the model fuses the captions of the clips
    (the released recipe). `clips`: it is shown their key frames, `video`: the stored frames of the whole
    video, and describes what it sees; then nothing is captioned.
    """

    input_form: Literal["captions", "clips", "video"] = "captions"
    max_new_tokens: int = Field(1024, ge=1)


class PairsConfig(Section):
    """The pair filter (method.md, section 2), and what may be asked beyond it.

    `length = "paper"` keeps drop pairs only where the chosen answer is the longer one, as the released filter
    does; `"any"` has no such rule; `"fair"` keeps, in every kind and level, as many pairs with the longer as
    with the shorter chosen answer, so that length gives nothing away. Few drop pairs survive `"fair"`.
    `min_difference` counts word edits over words (0 to 1); `max_per_video = 0` keeps all;
    pairs of the `held_out_share` of videos go to `held_out_pairs.jsonl`, which training never reads.

    `import_from` takes the pairs from a file made elsewhere, past the filter: a row that names no kind is of
    the kind `other`, at level 0.
    """

    import_from: str = Field(
        "", description="JSONL, JSON or Parquet of tempo, TRL, ms-swift or LLaMA-Factory"
    )
    length: Literal["paper", "any", "fair"] = "paper"
    max_length_ratio: float = Field(1.5, ge=1)
    min_difference: float = Field(0.0, ge=0, le=1)
    drop_duplicates: bool = True
    max_per_video: int = Field(0, ge=0)
    held_out_share: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _refuse_idle(self) -> PairsConfig:
        fields = type(self).model_fields
        filters = {"max_length_ratio", "min_difference"} | ({"length"} if self.length == "any" else set())
        idle = [name for name in sorted(filters) if getattr(self, name) != fields[name].default]
        if self.import_from and idle:
            raise ValueError(f"{', '.join(idle)} would do nothing: import_from takes pairs past the filter")
        return self


class AuditConfig(Section):
    """How well the pairs can be told apart without the video; judges see whole videos up to so many pairs.

    The language model without the video is slower than the others and has its own limit; 0 does not ask it.
    """

    max_pairs: int = Field(2000, ge=1)
    max_model_pairs: int = Field(500, ge=0)


class PhaseConfig(Section):
    """One training phase; `tempo` runs the list in order and merges LoRA after each.

    `levels` and `kinds` choose the pairs of a DPO phase (empty: all). `nll_weight` adds the mean negative
    log-likelihood of the chosen answer; the released recipe has 1.0. `batch_size` counts groups: the pairs of
    one video over one prefix, by `grouping` all of them, those of one level, or a single pair; or one video's
    questions. The loss is the mean over pairs, whatever the grouping.
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
    cache_features: bool = Field(
        False, description="keep what the frozen vision tower saw on disk: for several epochs and phases"
    )
    beta: float = Field(0.1, gt=0)
    nll_weight: float = Field(1.0, ge=0)
    loss: Loss = "sigmoid"
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="assumed share of pairs that are the wrong way round; sigmoid only"
    )
    length: Length = Field("sum", description="of token log-probabilities; TRL's ipo is ipo with mean")
    ld_alpha: float = Field(0.5, ge=0, le=1, description="weight of tokens beyond the common length; ld only")
    reference: Literal["reset", "fixed"] = Field(
        "reset", description="the policy when the phase begins, or the model before the first phase"
    )
    cache_reference: bool = Field(
        False, description="keep the reference's log-probabilities on disk: for phases of several epochs"
    )
    grouping: Literal["video", "level", "pair"] = "level"
    order: Literal["random", "adaptive"] = Field(
        "random", description="adaptive: from the easiest level on, harder when the present one is mastered"
    )
    mastered_accuracy: float = Field(
        0.9, gt=0, le=1, description="rewards/accuracies at which a level is mastered; adaptive only"
    )
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _refuse_idle(self) -> PhaseConfig:
        idle = _DPO_ONLY if self.objective == "sft" else _idle_dpo_keys(self)
        idle += () if self.lora_rank else ("lora_alpha",)
        # Compared with the default, not with what was written: a run writes its defaults into config.toml.
        defaults = type(self).model_fields
        if given := [key for key in idle if getattr(self, key) != defaults[key].default]:
            raise ValueError(f"phase {self.name!r}: {', '.join(given)} would do nothing here; remove it")
        return self

    @model_validator(mode="after")
    def _refuse_idle_cache(self) -> PhaseConfig:
        if self.cache_reference and self.reference == "fixed":
            raise ValueError(
                f"phase {self.name!r}: cache_reference would do nothing: a fixed reference is always on disk"
            )
        return self

    @model_validator(mode="after")
    def _refuse_stale_features(self) -> PhaseConfig:
        if self.cache_features and self.train_vision:
            raise ValueError(
                f"phase {self.name!r}: cache_features needs a frozen vision tower, and train_vision is true"
            )
        return self

    @model_validator(mode="after")
    def _refuse_no_choice(self) -> PhaseConfig:
        if self.objective == "sft" or self.order == "random":
            return self
        idle = f"phase {self.name!r}: order = 'adaptive' would do nothing"
        if len(set(self.levels)) == 1:
            raise ValueError(f"{idle} with the single level {self.levels[0]}; give several, or none for all")
        if self.grouping == "video":
            raise ValueError(f"{idle} with grouping = 'video', which mixes the levels; use 'level' or 'pair'")
        return self


_DPO_ONLY = (
    *("levels", "kinds", "beta", "nll_weight", "loss", "label_smoothing", "length", "ld_alpha"),
    *("reference", "cache_reference", "grouping", "order", "mastered_accuracy"),
)


def _idle_dpo_keys(phase: PhaseConfig) -> tuple[str, ...]:
    """What a DPO phase has no use for, given its other options."""
    needs = {
        "label_smoothing": phase.loss == "sigmoid",
        "ld_alpha": phase.length == "ld",
        "mastered_accuracy": phase.order == "adaptive",
    }
    return tuple(key for key, is_met in needs.items() if not is_met)


class TrainingConfig(Section):
    """The ordered phases, and baselines that run some of them alone from the same start."""

    phases: tuple[PhaseConfig, ...] = ()
    baselines: dict[str, tuple[str, ...]] = {}
    instructions: str = Field("", description="JSONL of video_id or video, question, answer; for SFT phases")
    max_tokens: int = Field(
        16384, ge=64, description="longest packed row; a longer sample is refused by name"
    )
    checkpoint_minutes: float = Field(
        10.0, ge=0, description="how often a phase on its way keeps its state; 0 after every step"
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
