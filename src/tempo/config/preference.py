"""Sections of the stages from captions to audited pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import Section
from tempo.core.records import Kind


class SamplingConfig(Section):
    """How the model generates text."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy decoding")
    repetition_penalty: float = Field(
        1.05, ge=1, description="1 is none; an endpoint whose `server` is `other` gets none"
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="answers generated at a time; an endpoint has its `concurrency` instead",
    )


class CaptionsConfig(SamplingConfig):
    """Differential captions: the model describes each clip by what changed since the clip before.

    Only used with `responses.input_form = "captions"`.
    """

    max_new_tokens: int = Field(512, ge=1, description="per caption")
    retries: int = Field(
        2,
        ge=0,
        description="new attempts at a caption that is empty, cut off or lacks its mark; none at temperature "
        "0, where the text would be the same",
    )


class PerturbationsConfig(Section):
    """Which perturbations of the clip order are made.

    The level is the number of segments that a video is divided into. Many segments are easy to tell from the
    original order, few are hard. The kind `swap`, in which two clips level // 2 apart change places, is not
    part of the published method.
    """

    # Faults 1, 2 and 4 of method.md, section 3.
    rule: Literal["distinct", "paper"] = Field(
        "distinct",
        description="distinct: never the original order, and levels with the same result are merged; paper: "
        "the released code's rule with its faults, for reproduction",
    )
    kinds: tuple[Kind, ...] = Field(("drop", "shuffle", "reverse"), description="also `swap`")
    levels: tuple[int, ...] = Field((16, 8, 4, 2), description="from easy to hard, each at least 2")

    @model_validator(mode="after")
    def _check(self) -> PerturbationsConfig:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must be one or more different kinds, got {self.kinds}")
        if self.rule == "paper" and "swap" in self.kinds:
            raise ValueError("kinds: the rule 'paper' does not define 'swap'. Remove it, or the rule")
        if not self.levels or min(self.levels) < 2 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be different whole numbers of at least 2, got {self.levels}")
        return self


class ResponsesConfig(SamplingConfig):
    """The model's descriptions of each video, original and perturbed."""

    input_form: Literal["captions", "clips", "video"] = Field(
        "captions",
        description="what is perturbed and given to the model: the captions of the clips (the released "
        "recipe), the key frames of the clips, or the stored frames of the whole video; clips and video "
        "need no captions",
    )
    max_new_tokens: int = Field(1024, ge=1, description="per response")


class PairsConfig(Section):
    """The filter that turns responses into preference pairs.

    Imported pairs pass no filter: with `import_from` only `drop_duplicates`, `max_per_video`,
    `held_out_share` and `length = "fair"` count.
    """

    import_from: str = Field(
        "",
        description="take the pairs from this JSONL, JSON or Parquet file of tempo, TRL, ms-swift or "
        "LLaMA-Factory; a row without a kind gets the kind `other` and level 0",
    )
    length: Literal["paper", "any", "fair"] = Field(
        "paper",
        description="paper: a drop pair needs the longer text as the chosen one, as in the released filter; "
        "any: no such rule; fair: in each kind and level the longer and the shorter text are chosen equally "
        "often, which few drop pairs survive",
    )
    max_length_ratio: float = Field(
        1.5, ge=1, description="maximum ratio of the two texts' word counts; drop pairs are exempt"
    )
    min_difference: float = Field(
        0.0, ge=0, le=1, description="minimum word edit distance of the two texts, as a share of their words"
    )
    drop_duplicates: bool = Field(
        True, description="of a video's pairs with the same two texts keep only the hardest level"
    )
    max_per_video: int = Field(0, ge=0, description="maximum number of pairs per video; 0 is no limit")
    held_out_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of videos whose pairs go to held_out_pairs.jsonl and are not trained on",
    )
    mirror: bool = Field(
        False,
        description="add a mirrored pair to each pair: the perturbed video, with chosen and rejected text "
        "exchanged; each text is then chosen as often as rejected. It costs a second pass over the video and "
        "does not count for `max_per_video`",
    )


class AuditConfig(Section):
    """The audit: how well chosen and rejected texts can be told apart without the video."""

    max_pairs: int = Field(2000, ge=1, description="pairs for each text-only baseline, drawn by video")
    max_model_pairs: int = Field(
        500,
        ge=0,
        description="how many of them the slower language model scores; 0 is none",
    )
