"""The base of all sections, and the sections of the run, the model, training, evaluation and the report."""

import re
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tempo.core.files import MAX_BAD_SHARE
from tempo.core.records import Kind

#: The parts of a model that a phase can train. The merger (also called projector or connector) connects the
#: vision tower to the language model.
Part = Literal["language_model", "vision_tower", "merger"]
#: The preference losses.
Loss = Literal["sigmoid", "ipo", "hinge", "sppo"]
#: How the log-probabilities of an answer's tokens are reduced to one number.
LogpReduction = Literal["sum", "mean", "ld"]
#: The orders of the pairs of a phase.
Order = Literal["random", "easy_to_hard", "hard_to_easy", "adaptive"]
#: Programs that show metrics; each is also the name of its package.
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]
#: How the options of a benchmark question are scored.
Scoring = Literal["sum", "mean", "letter"]
#: The public benchmarks, each a function in `tempo.evaluation.public.benchmarks`.
PublicBenchmark = Literal[
    "tempcompass", "vinoground", "tvbench", "tomato", "mvbench", "video_mme", "mlvu", "vitatecs",
    "temporalbench", "aotbench", "next_qa", "timeblind", "mvp", "videohallucer",
]  # fmt: skip
#: Names of phases and baselines are used as folder names.
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


class Section(BaseModel):
    """A section of the configuration: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """Settings of the whole run. Only `seed` changes results.

    A stage with a model uses one process; on a CPU, if OMP_NUM_THREADS is set, `num_workers` divided by it.
    Audit and training are not divided. Training uses all cores; on a CPU, another number of cores changes the
    last digits of the weights.

    A row of a file of pairs, instructions or samples is bad if it cannot be read, or names a video that the
    run does not have. Bad rows are named and skipped; if more than `max_bad_share` are bad, the run stops.

    `ray_address` is the address of a Ray cluster, or `auto` on one of its machines. All of them need the
    videos, the run directory and the checkpoint under the same paths. Without it, Ray starts on this machine.
    """

    seed: int = Field(0, ge=0, description="seed of all random choices")
    max_bad_share: float = Field(MAX_BAD_SHARE, ge=0, le=1, description="maximum share of bad rows")
    num_workers: int = Field(0, ge=0, description="processes per stage; 0 uses one per core")
    engine: Literal["local", "ray"] = Field("local", description="this machine, or Ray (extra `ray`)")
    ray_address: str = Field("", pattern=r"^(auto|[^/\s]+:\d+)?$", description="`host:port` or `auto`")
    trackers: tuple[Tracker, ...] = Field((), description="where to show metrics (extra `trackers`)")


class ModelConfig(Section):
    """The video-language model, in Hugging Face format.

    `quantization = "4bit"` stores the linear layers in NF4 and trains LoRA on top of them. The adapters are
    merged into the original weights at the end. Training does not support float16.
    """

    path: str = Field("embedded", description="directory or hub name, or `embedded`, a small built-in model")
    quantization: Literal["none", "4bit"] = Field("none", description="`4bit` needs the extra `quantize`")
    device: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|cuda|mps|xpu)(:(0|[1-9][0-9]*))?)$",
        description="torch device, such as `cuda:1`; `auto` uses a GPU if there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="`auto` is bfloat16 on a GPU and float32 on a CPU"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")


class EndpointConfig(Section):
    """An OpenAI-compatible server that generates the captions and responses: see serving.md.

    It must serve the checkpoint in `model.path`, which tempo trains afterwards.
    """

    url: str = Field(description="base URL, such as `http://host:8000/v1`")
    model: str = Field(min_length=1, description="name of the checkpoint on the server")
    server: Literal["vllm", "sglang", "lmdeploy", "transformers", "other"] = Field(
        "vllm", description="determines the request fields; `other` gets no repetition penalty"
    )
    api_key_env: str = Field("", description="environment variable with the API key; empty: no key")
    concurrency: int = Field(16, ge=1, le=1000, description="maximum number of concurrent requests")
    timeout_seconds: float = Field(300.0, gt=0, description="timeout of a request, including its retries")
    max_retries: int = Field(5, ge=0, description="retries of a failed request, with increasing delays")

    # The messages do not show the value, because it may contain a key.
    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[^?#@\s]*)?", url):
            raise ValueError(
                "must be like http://host:8000/v1, without user, password or query. Put the key into an "
                "environment variable, and the name of the variable into api_key_env"
            )
        return url

    @field_validator("api_key_env")
    @classmethod
    def _check_variable(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError("must be the name of an environment variable in capitals, not the key itself")
        return name


class _Phase(Section):
    """The keys that all phases have."""

    name: str = Field(pattern=NAME_PATTERN, description="name of its folder: letters, digits, `_` and `-`")
    objective: Literal["dpo", "sft", "grpo"] = Field(
        description="`dpo` trains on pairs, `sft` on instructions, `grpo` on the model's own descriptions"
    )
    learning_rate: float = Field(gt=0, description="peak value; it decays to 0 along a cosine")
    epochs: int = Field(1, ge=1, description="passes over the data of the phase")
    batch_size: int = Field(4, ge=1, description="groups per step: see `grouping`; for `grpo`, videos")
    warmup_share: float = Field(0.05, ge=0, le=1, description="share of steps for the warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    lora_rank: int = Field(32, ge=0, description="rank of LoRA; 0 trains all weights of the parts in `train`")
    lora_alpha: int = Field(64, ge=1, description="LoRA is scaled by `lora_alpha / lora_rank`")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before LoRA; other dropout is off")
    train: tuple[Part, ...] = Field(
        ("language_model",), min_length=1, description="parts to train; `merger` is the projector"
    )
    gradient_checkpointing: bool = Field(False, description="saves memory but takes more time")

    @property
    def trains_vision(self) -> bool:
        """Whether the phase changes the features of a video."""
        return bool({"vision_tower", "merger"} & {*self.train})


class DpoPhase(_Phase):
    """Preference optimization on the pairs of the run.

    `grouping` decides which pairs share one encoding of the video and prompt: all pairs of a video, those of
    one level, or none (`pair`). `reference` is the model before this phase (`reset`) or before the first one
    (`fixed`). `logp_reduction` reduces the log-probabilities of a text to one number: their sum, their mean,
    or LD-DPO's sum, in which `ld_alpha` weights the tokens beyond the length of the shorter text. `ipo` with
    `mean` is TRL's `ipo`. The orders `easy_to_hard` and `hard_to_easy` finish one level before the next.
    `adaptive` goes from easy to hard, and starts the next level when rewards/accuracies reaches
    `mastered_accuracy`. These three need `grouping = "level"` or `"pair"`.
    """

    objective: Literal["dpo"] = Field(description="trains on pairs")
    levels: tuple[int, ...] = Field((), description="levels to train on; empty selects all")
    kinds: tuple[Kind, ...] = Field((), description="kinds to train on; empty selects all")
    grouping: Literal["video", "level", "pair"] = Field("video", description="pairs that share a prefix")
    beta: float = Field(0.1, gt=0, description="higher values keep the model closer to the reference")
    nll_weight: float = Field(1.0, ge=0, description="weight of the NLL of the chosen text; 0 is plain DPO")
    loss: Loss = Field("sigmoid", description="`sigmoid` is DPO, `hinge` is SLiC")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="assumed share of wrong labels (`sigmoid`)")
    logp_reduction: LogpReduction = Field("sum", description="how token log-probabilities are combined")
    ld_alpha: float = Field(0.5, ge=0, le=1, description="weight of tokens beyond the shorter text (`ld`)")
    reference: Literal["reset", "fixed"] = Field("reset", description="see above")
    order: Order = Field("random", description="order of the pairs: see above")
    mastered_accuracy: float = Field(0.9, gt=0, le=1, description="accuracy that ends a level (`adaptive`)")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.order != "random" and self.grouping == "video":
            raise ValueError(f"order {self.order!r} needs grouping 'level' or 'pair', not 'video'")
        return self


class SftPhase(_Phase):
    """Supervised fine-tuning on instructions."""

    objective: Literal["sft"] = Field(description="trains on instructions")
    grouping: Literal["video", "pair"] = Field("video", description="questions that share a prefix")


class GrpoPhase(_Phase):
    """Reinforcement learning on descriptions that the model writes during training, without labels.

    A step samples `num_answers` descriptions of each clean video from the current model, at temperature 1 and
    with at most `responses.max_new_tokens` tokens. Each is compared with the captions of the stage
    `captions`. The reward is `recall_weight` times the share of captions that it covers, plus `order_weight`
    times 1 minus the Kendall distance of their order, all multiplied by its precision, the share of its
    sentences that match a caption. An empty or truncated description has reward 0. The captions need
    `responses.input_form = "captions"` and no `pairs.import_from`.
    """

    objective: Literal["grpo"] = Field(description="trains on the model's own descriptions")
    num_answers: int = Field(8, ge=2, description="descriptions per video and step")
    num_updates: int = Field(1, ge=1, description="optimizer updates per step, on the same descriptions")
    recall_weight: float = Field(1.0, ge=0, description="weight of recall in the reward")
    order_weight: float = Field(1.0, ge=0, description="weight of order in the reward")
    loss_type: Literal["dapo", "grpo"] = Field(
        "dapo", description="mean over all tokens of the step, or over the answers' means, as in TRL"
    )
    epsilon: float = Field(0.2, gt=0, lt=1, description="ratios are clipped at 1 minus this")
    epsilon_high: float = Field(0.28, gt=0, description="ratios are clipped at 1 plus this")


PhaseConfig: TypeAlias = Annotated[DpoPhase | SftPhase | GrpoPhase, Field(discriminator="objective")]


class TrainingConfig(Section):
    """The training phases in order.

    A baseline is a separate model that starts from `model.path` and is trained with some of the phases.
    """

    phases: tuple[PhaseConfig, ...] = Field((), description="see `[[training.phases]]`")
    baselines: dict[str, tuple[str, ...]] = Field({}, description='phases by name: `sft_only = ["sft"]`')
    instructions: str = Field("", description="file of questions and answers for SFT phases: see guide.md")
    max_instructions: int | None = Field(None, ge=1, description="size of a random subset; unset uses all")
    max_tokens: int = Field(16384, ge=64, description="maximum length of a packed row or example")
    checkpoint_minutes: float = Field(10.0, ge=0, description="time between checkpoints; 0 is every step")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases must have different names, got {names}")
        for baseline, wanted in self.baselines.items():
            if not re.fullmatch(NAME_PATTERN, baseline) or baseline in ("base", "tempo"):
                raise ValueError(f"baselines.{baseline}: use letters, digits, _ and -; not base or tempo")
            if unknown := [name for name in wanted if name not in names]:
                raise ValueError(f"baselines.{baseline} has unknown phases {unknown}. The phases are {names}")
        return self


class PublicBenchmarkConfig(Section):
    """A public benchmark on which all models are also evaluated: see evaluation.md.

    `scoring` is as in `[evaluation]`; with `generate`, the model writes an answer instead. It counts only if
    it clearly names an option.
    """

    name: PublicBenchmark = Field(description="the benchmark")
    data: str = Field(description="folder with its files")
    scoring: Literal[Scoring, "generate"] = Field("letter", description="how answers are scored: see above")
    num_frames: int | None = Field(None, ge=1, description="frames per video; defaults: see evaluation.md")
    max_new_tokens: int = Field(128, ge=1, description="maximum length of a written answer")
    blind: bool = Field(False, description="also ask the questions without the videos")


class EvaluationConfig(Section):
    """How all models of the run are evaluated: on held-out videos, and on a benchmark if there is one.

    A share of the videos with pairs is held out, at least one if there are two: nothing about them is trained
    on. A synthetic run is also evaluated on a benchmark of its own.

    In a benchmark the model picks the option with the highest score: the log-probability of its text, as a
    sum over tokens (`sum`, which favours short options) or as their mean (`mean`). With `letter`, the
    question lists the options under letters, and the score is the log-probability of the letter.
    """

    held_out_share: float = Field(0.1, ge=0, lt=1, description="share of held-out videos; 0 trains on all")
    max_held_out: int = Field(100, ge=1, description="maximum number of held-out videos to evaluate")
    benchmark: str = Field("", description="JSONL file of questions: see guide.md")
    scoring: Scoring = Field("sum", description="how options are scored: see above")
    benchmarks: tuple[PublicBenchmarkConfig, ...] = Field((), description="see `[[evaluation.benchmarks]]`")


class ReportConfig(Section):
    """The size of report.html."""

    num_videos: int = Field(6, ge=0, description="maximum number of videos to show")
    num_pairs: int = Field(6, ge=0, description="maximum number of pairs to show")
