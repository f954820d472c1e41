"""From clips to audited pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import Section
from tempo.core.records import Kind


class SamplingConfig(Section):
    """How the model's answers are drawn."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    repetition_penalty: float = Field(1.05, ge=1, description="1 is none")
    batch_size: int = Field(32, ge=1, description="answers drawn at a time; unused with `[endpoint]`")


class CaptionsConfig(SamplingConfig):
    """Differential captioning: each clip is told by what changed since the one before.

    A caption that comes out empty, cut or without its mark is drawn again, up to `retries` times; at
    temperature 0 the same words would come, so it is not.
    """

    max_new_tokens: int = Field(512, ge=1, description="of one caption")
    retries: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _check(self) -> CaptionsConfig:
        default = type(self).model_fields["retries"].default
        if self.temperature == 0 and self.retries not in (0, default):
            raise ValueError(f"retries {self.retries} would do nothing at temperature 0; remove it")
        return self


class PerturbationsConfig(Section):
    """Which perturbations are made, and by which `rule` a level disturbs.

    `distinct`: never the original order, and levels that would come out the same are merged. `paper`: the
    released rule with its faults, for reproduction. The kind `swap` is not of the method: two clips that lie
    level // 2 apart change places.
    """

    # Faults 1, 2 and 4 of method.md, section 3.
    rule: Literal["distinct", "paper"] = "distinct"
    kinds: tuple[Kind, ...] = ("drop", "shuffle", "reverse")
    levels: tuple[int, ...] = Field(
        (16, 8, 4, 2),
        description="into so many segments the clips are cut: many is easy to tell, few is hard",
    )

    @model_validator(mode="after")
    def _check(self) -> PerturbationsConfig:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must name each kind at most once and one at least, got {self.kinds}")
        if self.rule == "paper" and "swap" in self.kinds:
            raise ValueError("kinds: 'swap' is not of the released rule; remove it, or rule = 'paper'")
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
    max_new_tokens: int = Field(1024, ge=1, description="of one response")


class PairsConfig(Section):
    """The pair filter, and what may be asked beyond it.

    `length = "paper"` keeps drop pairs only where the chosen answer is the longer one, as the released filter
    does; `"any"` has no such rule; `"fair"` keeps, in every kind and level, as many pairs with the longer as
    with the shorter chosen answer, so that length gives nothing away. Few drop pairs survive `"fair"`.
    `min_difference` counts word edits over words (0 to 1); `max_per_video = 0` keeps all;
    pairs of the `held_out_share` of videos go to `held_out_pairs.jsonl`, which training never reads.

    `mirror` adds to every pair that is kept, `max_per_video` or not, its mirror image: the perturbed video,
    which the rejected answer tells rightly and the chosen one wrongly. Each text is then chosen as often as
    rejected, so that no judge of texts can tell them apart; a mirrored pair needs a pass over its own video.

    `import_from` takes the pairs from a file made elsewhere, past the filter: a row that names no kind is of
    the kind `other`, at level 0.
    """

    import_from: str = Field(
        "", description="JSONL, JSON or Parquet of tempo, TRL, ms-swift or LLaMA-Factory"
    )
    length: Literal["paper", "any", "fair"] = "paper"
    max_length_ratio: float = Field(
        1.5, ge=1, description="words of the longer text to those of the shorter, at most; not of drop pairs"
    )
    min_difference: float = Field(0.0, ge=0, le=1)
    drop_duplicates: bool = Field(
        True, description="of a video's pairs with the same two texts only the hardest level stays"
    )
    max_per_video: int = Field(0, ge=0)
    held_out_share: float = Field(0.0, ge=0, lt=1)
    mirror: bool = False

    @model_validator(mode="after")
    def _refuse_idle(self) -> PairsConfig:
        fields = type(self).model_fields
        filters = {"max_length_ratio", "min_difference", "mirror"} | (
            {"length"} if self.length == "any" else set()
        )
        idle = [name for name in sorted(filters) if getattr(self, name) != fields[name].default]
        if self.import_from and idle:
            raise ValueError(f"{', '.join(idle)} would do nothing: import_from takes pairs past the filter")
        return self


class AuditConfig(Section):
    """How well the pairs can be told apart without the video; judges see whole videos up to so many pairs.

    The language model without the video is slower than the others and has its own limit; 0 does not ask it.
    """

    max_pairs: int = Field(2000, ge=1, description="for every judge")
    max_model_pairs: int = Field(500, ge=0, description="for the language model")

    @model_validator(mode="after")
    def _refuse_idle(self) -> AuditConfig:
        default = type(self).model_fields["max_model_pairs"].default
        if self.max_model_pairs > self.max_pairs and self.max_model_pairs != default:
            raise ValueError(
                f"max_model_pairs {self.max_model_pairs} would do nothing over max_pairs {self.max_pairs}: "
                "the model is asked about pairs that the other judges see"
            )
        return self
