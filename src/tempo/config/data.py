"""Sections of the stages from videos to audited pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.running import Section
from tempo.core.records import Kind

#: The smallest size of a stored frame, in pixels.
MIN_PIXELS = 64

#: Frame sizes for models from the hub: pixels of one frame, and of all frames of a video. Nine million pixels
#: are about 6,000 tokens of Qwen2.5-VL; a video and its answers must fit `training.max_tokens`.
HUB_MAX_PIXELS, HUB_TOTAL_PIXELS = 200_704, 9_000_000


class SyntheticConfig(Section):
    """The synthetic world: rendered stories with known events. A run with this section needs no videos.

    Real instruction data seldom depends on order, so by default half of the answers about order are random.
    """

    num_videos: int = Field(160, ge=1, description="stories to learn from")
    num_held_out: int = Field(60, ge=1, description="stories for the evaluation")
    min_shots: int = Field(4, ge=2, description="minimum number of shots in a story")
    max_shots: int = Field(16, le=16, description="maximum number of shots in a story")
    plain_share: float = Field(0.1, ge=0, le=1, description="share of `num_videos` with one to three shots")
    order_fidelity: float = Field(0.5, ge=0, le=1, description="share of answers about order that are true")


class VideosConfig(Section):
    """Where the videos are. Required unless the run has a `[synthetic]` section."""

    paths: tuple[str, ...] = Field((), description="video files, and folders that are searched recursively")
    extensions: tuple[str, ...] = Field(
        (
            *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts"),
            *("flv", "wmv", "asf", "3gp", "ogv", "vob", "mxf"),
        ),
        min_length=1,
        description="file extensions to look for in folders; a file that is named itself may have any",
    )
    timeout_seconds: float = Field(120.0, gt=0, description="longest wait for a frame of a video")


class FramesConfig(Section):
    """The stored frames, which the model sees. Each one is from the middle of an interval of 1 / `fps`.

    With `max_total_pixels` the frames of a video are smaller, the more there are. Key frames do not count.
    """

    fps: float = Field(1.0, gt=0, description="stored frames per second of video")
    max_frames: int = Field(600, ge=2, description="frames per video; longer videos get a lower frame rate")
    max_pixels: int = Field(128 * 128, ge=MIN_PIXELS, description="maximum size of a stored frame")
    max_total_pixels: int | None = Field(None, description="budget for all stored frames of a video")
    jpeg_quality: int = Field(95, ge=1, le=100, description="of stored frames")

    @model_validator(mode="after")
    def _check_budget(self) -> FramesConfig:
        least = MIN_PIXELS * self.max_frames
        if self.max_total_pixels is not None and self.max_total_pixels < least:
            raise ValueError(f"max_total_pixels must be at least {least}, for {self.max_frames} frames")
        return self


class ShotsConfig(Section):
    """Shot detection. Shots that are too short or nearly uniform in colour are left out.

    The detectors content and adaptive are PySceneDetect's, transnet is the neural network TransNetV2. Unset,
    `threshold` is 27 for content, PySceneDetect's default for adaptive and a probability of 0.5 for transnet;
    `min_scene_seconds` is 0.6, and transnet does not use it.
    """

    detector: Literal["content", "adaptive", "transnet"] = Field(
        "content", description="adaptive is for fast camera movement, transnet needs the extra `transnet`"
    )
    threshold: float | None = Field(None, gt=0, description="higher values give fewer cuts")
    min_scene_seconds: float | None = Field(None, gt=0, description="shortest time between two cuts")
    min_frames: int = Field(8, ge=1, description="minimum number of frames in a shot")
    min_seconds: float = Field(0.2, ge=0, description="minimum length of a shot")
    min_grey_range: int = Field(10, ge=0, le=255, description="minimum range of grey levels in a shot")

    @model_validator(mode="after")
    def _check_probability(self) -> ShotsConfig:
        if self.detector == "transnet" and self.threshold is not None and self.threshold >= 1:
            raise ValueError(f"threshold {self.threshold:g} must be a probability for detector 'transnet'")
        return self


class ClipsConfig(Section):
    """Which videos have enough events for the method, and which of their shots belong to one clip.

    Shots that look alike form a group, and a clip is a run of consecutive shots of one group. Videos outside
    the limits are skipped. `features` is `embedded` (colour and layout), or the path or hub name of a SigLIP
    or CLIP checkpoint.
    """

    min_shots: int = Field(4, ge=1, description="minimum number of usable shots")
    max_shots: int = Field(32, ge=1, description="maximum number of usable shots")
    max_shot_seconds: float = Field(16.0, gt=0, description="maximum length of the longest shot")
    features: str = Field("embedded", min_length=1, description="what shots are compared by")
    similarity: float = Field(0.8, gt=-1, le=1, description="cosine above which shots join a group")
    min_clips: int = Field(4, ge=2, description="minimum number of clips")
    max_group_clips: int = Field(3, ge=1, description="maximum number of clips in a group")
    group_share: int = Field(3, ge=1, description="a group has at most num_clips // group_share clips")

    @model_validator(mode="after")
    def _check_shots(self) -> ClipsConfig:
        if self.min_shots > self.max_shots:
            raise ValueError(f"min_shots {self.min_shots} is larger than max_shots {self.max_shots}")
        return self


class SamplingConfig(Section):
    """How the model generates text."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy decoding")
    repetition_penalty: float = Field(1.05, ge=1, description="1 has no effect")
    batch_size: int = Field(32, ge=1, description="answers generated at a time, but not by an endpoint")


class CaptionsConfig(SamplingConfig):
    """Captions of clips by what changed since the clip before, for `responses.input_form = "captions"`."""

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
            raise ValueError("kinds: the rule 'paper' does not define 'swap'. Remove one of them")
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
    max_model_pairs: int = Field(500, ge=0, description="pairs for the slower language model; 0 skips it")
