"""The training section: DPO and SFT phases in the order in which they run."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from tempo.config.running import NAME_PATTERN, Section
from tempo.core.records import Kind

#: What a phase can train. The merger is what connects vision tower and language model (projector, connector).
Part = Literal["language_model", "vision_tower", "merger"]
#: The preference losses.
Loss = Literal["sigmoid", "ipo", "hinge", "sppo"]
#: How the log-probabilities of an answer's tokens become one number.
LogpReduction = Literal["sum", "mean", "ld"]


class _Phase(Section):
    """Keys of every phase."""

    name: str = Field(pattern=NAME_PATTERN, description="letters, digits, `_` and `-`; used as a folder name")
    objective: Literal["dpo", "sft"] = Field(description="dpo trains on pairs, sft on instructions")
    learning_rate: float = Field(gt=0, description="the maximum; it falls to 0 as a cosine")
    epochs: int = Field(1, ge=1, description="passes over the data of the phase")
    batch_size: int = Field(4, ge=1, description="groups per optimizer step: see `grouping`")
    warmup_share: float = Field(0.05, ge=0, le=1, description="share of the steps in which the rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    lora_rank: int = Field(32, ge=0, description="0 trains the weights themselves")
    lora_alpha: int = Field(64, ge=1, description="LoRA is scaled by lora_alpha / lora_rank")
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="of the input of the LoRA; all other dropout is off"
    )
    train: tuple[Part, ...] = Field(
        ("language_model",), min_length=1, description="also `vision_tower` and `merger` (the connector)"
    )
    cache_features: bool = Field(False, description="keep features of vision tower and merger on disk")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")

    @property
    def trains_vision(self) -> bool:
        """Whether the features of a video change in the phase."""
        return bool({"vision_tower", "merger"} & {*self.train})

    @model_validator(mode="after")
    def _check_features(self) -> _Phase:
        if self.cache_features and self.trains_vision:
            raise ValueError(
                "cache_features needs train = ['language_model']: other parts change the features"
            )
        return self


class DpoPhase(_Phase):
    """Preference optimization on the pairs of the run.

    `grouping` says which pairs share an encoded video and prompt: all of a video, those of one level, or each
    has its own. `reference` is the model before this phase (`reset`) or before the first one (`fixed`), whose
    log-probabilities are always on disk. `logp_reduction = "ld"` is LD-DPO's; TRL's loss `ipo` is `ipo` with
    `mean`. The order `adaptive` goes on to the next level at `mastered_accuracy` of rewards/accuracies.
    """

    objective: Literal["dpo"] = Field(description="trains on pairs")
    levels: tuple[int, ...] = Field((), description="levels of the pairs; empty is all")
    kinds: tuple[Kind, ...] = Field((), description="kinds of the pairs; empty is all")
    grouping: Literal["video", "level", "pair"] = Field("level", description="pairs that share a prefix")
    beta: float = Field(0.1, gt=0, description="higher values stay closer to the reference")
    nll_weight: float = Field(1.0, ge=0, description="weight of the chosen text's NLL; 0 is plain DPO")
    loss: Loss = Field("sigmoid", description="sigmoid is DPO; also IPO, the hinge loss of SLiC, and SPPO")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of wrong labels; sigmoid only")
    logp_reduction: LogpReduction = Field("sum", description="of token log-probabilities")
    ld_alpha: float = Field(0.5, ge=0, le=1, description="weight of tokens beyond the common length; ld only")
    reference: Literal["reset", "fixed"] = Field("reset", description="see above")
    cache_reference: bool = Field(False, description="keep log-probabilities of the reference on disk")
    order: Literal["random", "adaptive"] = Field("random", description="adaptive is from easy to hard")
    mastered_accuracy: float = Field(0.9, gt=0, le=1, description="ends a level; adaptive only")

    @model_validator(mode="after")
    def _check_order(self) -> DpoPhase:
        if self.order == "adaptive" and self.grouping == "video":
            raise ValueError("order 'adaptive' goes by level. Use grouping 'level' or 'pair', not 'video'")
        return self


class SftPhase(_Phase):
    """Supervised fine-tuning on instructions."""

    objective: Literal["sft"] = Field(description="trains on instructions")
    grouping: Literal["video", "pair"] = Field("video", description="all questions of a video, or one")


PhaseConfig: TypeAlias = Annotated[DpoPhase | SftPhase, Field(discriminator="objective")]


class TrainingConfig(Section):
    """The training phases in their order, and baselines."""

    phases: tuple[PhaseConfig, ...] = Field((), description="see `[[training.phases]]`")
    baselines: dict[str, tuple[str, ...]] = Field(
        {}, description='other models to train from `model.path`, such as `sft_only = ["sft"]`'
    )
    instructions: str = Field("", description="for SFT phases: JSONL, JSON or Parquet; see guide.md")
    max_instructions: int | None = Field(None, ge=1, description="size of a random subset to train on")
    max_tokens: int = Field(16384, ge=64, description="of a packed row; a longer one is an error")
    checkpoint_minutes: float = Field(10.0, ge=0, description="between saved states; 0 is each step")

    @model_validator(mode="after")
    def _check_names(self) -> TrainingConfig:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases must have different names, got {names}")
        for baseline, wanted in self.baselines.items():
            if not re.fullmatch(NAME_PATTERN, baseline) or baseline in ("base", "tempo"):
                raise ValueError(
                    f"baselines.{baseline}: use letters, digits, _ and -; base and tempo are reserved"
                )
            if unknown := [name for name in wanted if name not in names]:
                raise ValueError(f"baselines.{baseline} has unknown phases {unknown}. The phases are {names}")
        return self
