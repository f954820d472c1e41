"""Sections of the stages from captions to audited pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import Section
from tempo.core.records import Kind


class SamplingConfig(Section):
    """How the model generates text."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy decoding")
    repetition_penalty: float = Field(1.05, ge=1, description="1 is none")
    batch_size: int = Field(32, ge=1, description="answers generated at a time, but not by an endpoint")


class CaptionsConfig(SamplingConfig):
    """Differential captions: the model describes each clip by what changed since the clip before.

    Only used with `responses.input_form = "captions"`.
    """

    max_new_tokens: int = Field(512, ge=1, description="per caption")
    retries: int = Field(2, ge=0, description="new attempts at an unusable caption; none at temperature 0")


class PerturbationsConfig(Section):
    """Which perturbations of the clip order are made.

    The level is the number of segments that a video is divided into. Many segments are easy to tell from the
    original order, few are hard. The rule `distinct` never gives the original order, and merges levels with
    the same result; `paper` is that of the released code with its faults, for reproduction. The kind `swap`
    exchanges two clips that are level // 2 apart, and is not part of the published method.
    """

    # Faults 1, 2 and 4 of method.md, section 3.
    rule: Literal["distinct", "paper"] = Field("distinct", description="how a level changes the order")
    kinds: tuple[Kind, ...] = Field(("drop", "shuffle", "reverse"), description="also `swap`")
    levels: tuple[int, ...] = Field((16, 8, 4, 2), description="from easy to hard, each at least 2")

    @model_validator(mode="after")
    def _check(self) -> PerturbationsConfig:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must be one or more different kinds, got {self.kinds}")
        if self.rule == "paper" and "swap" in self.kinds:
            raise ValueError(
                "kinds: the rule 'paper' does not define 'swap'. Remove it, or use rule 'distinct'"
            )
        if not self.levels or min(self.levels) < 2 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be different whole numbers of at least 2, got {self.levels}")
        return self


class ResponsesConfig(SamplingConfig):
    """The model's descriptions of each video, original and perturbed.

    What is perturbed and given to the model is `input_form`: the captions of the clips, as in the released
    recipe, the key frames of the clips, or the stored frames of the whole video.
    """

    input_form: Literal["captions", "clips", "video"] = Field("captions", description="see above")
    max_new_tokens: int = Field(1024, ge=1, description="per response")


class PairsConfig(Section):
    """The filter that turns responses into preference pairs.

    `length`: with `paper`, as in the released filter, the chosen text of a drop pair is the longer one. With
    `fair` it is longer in half of the pairs of each kind and level, which few drop pairs survive. There is no
    such rule with `any`.

    `mirror` adds the mirror image of each pair: the perturbed video, with chosen and rejected text exchanged.
    Each text is then chosen as often as rejected. A mirrored pair costs a pass over its own video.

    `import_from` takes pairs from a JSONL, JSON or Parquet file of tempo, TRL, ms-swift or LLaMA-Factory. For
    them only `drop_duplicates`, `held_out_share` and `length = "fair"` have an effect. Pairs without a kind
    get the kind `other` and level 0.
    """

    import_from: str = Field("", description="take the pairs from this file")
    length: Literal["paper", "any", "fair"] = Field("paper", description="which text may be longer")
    max_length_ratio: float = Field(1.5, ge=1, description="of word counts; drop pairs are exempt")
    drop_duplicates: bool = Field(True, description="keep the hardest level of pairs with the same texts")
    held_out_share: float = Field(0.0, ge=0, lt=1, description="share of videos not to train on")
    mirror: bool = Field(False, description="add a mirrored pair to each pair")


class AuditConfig(Section):
    """The audit: how well chosen and rejected texts can be told apart without the video."""

    max_pairs: int = Field(2000, ge=1, description="pairs for each text-only baseline, drawn by video")
    max_model_pairs: int = Field(500, ge=0, description="those for the slower language model; 0 is none")
