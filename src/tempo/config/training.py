"""Training phases, and what they may be."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import NAME_PATTERN, Section
from tempo.core.records import Kind

#: Preference losses, and how the log-probabilities of an answer's tokens become one number.
Loss = Literal["sigmoid", "ipo", "hinge", "sppo"]
Length = Literal["sum", "mean", "ld"]


class PhaseConfig(Section):
    """One training phase; `tempo` runs the list in order and merges LoRA after each.

    `levels` and `kinds` choose the pairs of a DPO phase (empty: all). `nll_weight` adds the mean negative
    log-likelihood of the chosen answer; the released recipe has 1.0. `batch_size` counts groups over one
    prefix: by `grouping` all pairs of a video, those of one level, or a single pair; in an SFT phase all
    questions of a video, or with `grouping = "pair"` a single one with its answer. The loss is the mean over
    pairs, or over tokens of answers, whatever the grouping.
    """

    name: str = Field(pattern=NAME_PATTERN, description="letters, digits, `_` and `-`: it becomes a folder")
    objective: Literal["dpo", "sft"] = Field(description="dpo: on pairs; sft: on instructions")
    levels: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ()
    learning_rate: float = Field(gt=0, description="at its highest; it falls to 0 as a cosine")
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(4, ge=1)
    warmup_share: float = Field(0.05, ge=0, le=1, description="of the steps, in which the rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to it")
    lora_rank: int = Field(32, ge=0, description="0 trains the weights themselves")
    lora_alpha: int = Field(64, ge=1, description="LoRA counts lora_alpha / lora_rank times")
    train_vision: bool = Field(False, description="train the vision tower and the connector too")
    cache_features: bool = Field(
        False, description="keep what the frozen vision tower saw on disk: for several epochs and phases"
    )
    beta: float = Field(0.1, gt=0, description="of the preference loss: higher stays closer to the reference")
    nll_weight: float = Field(1.0, ge=0)
    loss: Loss = Field("sigmoid", description="sigmoid is DPO's; the others: IPO, SLiC's hinge, SPPO")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="assumed share of pairs that are the wrong way round; sigmoid only"
    )
    length: Length = Field(
        "sum",
        description="of token log-probabilities; ld is LD-DPO's; TRL's ipo is ipo with mean",
    )
    ld_alpha: float = Field(0.5, ge=0, le=1, description="weight of tokens beyond the common length; ld only")
    reference: Literal["reset", "fixed"] = Field(
        "reset",
        description="the policy when the phase begins, or the model before the first phase (there the same)",
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
    gradient_checkpointing: bool = Field(False, description="less memory, more time")

    @model_validator(mode="after")
    def _refuse_idle(self) -> PhaseConfig:
        idle = _idle_sft_keys(self) if self.objective == "sft" else _idle_dpo_keys(self)
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
    *("reference", "cache_reference", "order", "mastered_accuracy"),
)


def _idle_sft_keys(phase: PhaseConfig) -> tuple[str, ...]:
    """What an SFT phase has no use for: its questions have no levels, so all of a video is what it does."""
    return _DPO_ONLY if phase.grouping == "pair" else (*_DPO_ONLY, "grouping")


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

    phases: tuple[PhaseConfig, ...] = Field((), description="see `[[training.phases]]`")
    baselines: dict[str, tuple[str, ...]] = Field(
        {}, description='names of phases under the name of a baseline, like `sft_only = ["sft"]`'
    )
    instructions: str = Field(
        "",
        description="for SFT phases: JSONL, JSON or Parquet, rows of video_id or video with question and "
        "answer, or with a conversation as LLaVA writes it",
    )
    max_instructions: int | None = Field(
        None, ge=1, description="questions that SFT phases take, drawn by the seed; all where unset"
    )
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
        if self.max_instructions is not None and not any(p.objective == "sft" for p in self.phases):
            raise ValueError("max_instructions would do nothing: no phase has objective 'sft'; remove it")
        for baseline, wanted in self.baselines.items():
            if not re.fullmatch(NAME_PATTERN, baseline) or baseline in ("base", "tempo"):
                raise ValueError(
                    f"baselines.{baseline}: names are of {NAME_PATTERN}, base and tempo are taken"
                )
            if unknown := [name for name in wanted if name not in names]:
                raise ValueError(f"baselines.{baseline} names unknown phases {unknown}; there are {names}")
        return self
