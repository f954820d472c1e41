"""Sections of the stages from videos to the audit of the pairs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tempo.config.running import Section
from tempo.core.records import Kind

#: The smallest allowed size of a stored frame, in pixels.
MIN_PIXELS = 64

#: Frame sizes for models from the hub: pixels of one frame, and of all frames of a video. Nine million pixels
#: are about 6,000 tokens for Qwen2.5-VL. A video and its answers must fit into `training.max_tokens`.
HUB_MAX_PIXELS, HUB_TOTAL_PIXELS = 200_704, 9_000_000


class SyntheticConfig(Section):
    """The synthetic world: rendered stories with known events. A run with this section needs no videos.

    By default half of the answers about order are random, because real instructions seldom depend on it.
    """

    num_videos: int = Field(160, ge=1, description="number of stories for training")
    num_held_out: int = Field(60, ge=1, description="number of stories for the evaluation")
    min_shots: int = Field(4, ge=2, description="minimum number of shots in a story")
    max_shots: int = Field(16, le=16, description="maximum number of shots in a story")
    plain_share: float = Field(0.1, ge=0, le=1, description="share of `num_videos` with one to three shots")
    order_fidelity: float = Field(0.5, ge=0, le=1, description="share of correct answers about order")


class VideosConfig(Section):
    """The videos. Required unless the run has a `[synthetic]` section."""

    paths: tuple[str, ...] = Field((), description="video files, and folders to search recursively")
    extensions: tuple[str, ...] = Field(
        (
            *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts"),
            *("flv", "wmv", "asf", "3gp", "ogv", "vob", "mxf"),
        ),
        min_length=1,
        description="extensions of the files to use in folders; ignored for files in `paths`",
    )
    timeout_seconds: float = Field(120.0, gt=0, description="maximum time to decode a frame")


class FramesConfig(Section):
    """The stored frames, which the model sees. Each is taken from the middle of 1 / `fps` seconds of video.

    `max_total_pixels` limits the total number of pixels of all frames of a video: the frames of a long video
    are scaled down until they fit. Key frames do not count.
    """

    fps: float = Field(1.0, gt=0, description="stored frames per second of video")
    max_frames: int = Field(600, ge=2, description="maximum per video; longer videos get a lower rate")
    max_pixels: int = Field(128 * 128, ge=MIN_PIXELS, description="maximum number of pixels per frame")
    max_total_pixels: int | None = Field(None, description="maximum number of pixels per video")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of the stored frames")

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        least = MIN_PIXELS * self.max_frames
        if self.max_total_pixels is not None and self.max_total_pixels < least:
            raise ValueError(
                f"max_total_pixels must be at least {least}, which is {MIN_PIXELS} for each frame. "
                f"Raise it, or lower max_frames, which is {self.max_frames}"
            )
        return self


class ShotsConfig(Section):
    """Shot detection. Shots that are too short or nearly uniform in colour are left out.

    The detectors `content` and `adaptive` (for fast camera movement) are those of PySceneDetect; `transnet`
    is the neural network TransNetV2 (extra `transnet`). By default `threshold` is 27 for `content`,
    PySceneDetect's default for `adaptive`, and a probability of 0.5 for `transnet`. `min_scene_seconds` is
    0.6 by default; `transnet` ignores it.
    """

    detector: Literal["content", "adaptive", "transnet"] = Field("content", description="see above")
    threshold: float | None = Field(None, gt=0, description="higher values give fewer cuts")
    min_scene_seconds: float | None = Field(None, gt=0, description="minimum time between two cuts")
    min_frames: int = Field(8, ge=1, description="minimum number of frames in a shot")
    min_seconds: float = Field(0.2, ge=0, description="minimum length of a shot")
    min_grey_range: int = Field(10, ge=0, le=255, description="minimum range of grey levels in a shot")

    @model_validator(mode="after")
    def _check_probability(self) -> Self:
        if self.detector == "transnet" and self.threshold is not None and self.threshold >= 1:
            raise ValueError(
                f"threshold {self.threshold:g} is not a probability, which detector 'transnet' needs. "
                "Use a value below 1"
            )
        return self


class ClipsConfig(Section):
    """Which videos have enough events for the method, and what their clips are.

    With the source `shots`, similar shots form a group, and a clip is a sequence of consecutive shots of one
    group. With `change`, shots are divided where the picture changes most, into clips of at least two
    seconds. `auto` uses shots, but divides those that are longer than `max_shot_seconds`, or all if the video
    has too few. `min_change` is in grey levels (0 to 255): the root mean square difference of two pictures
    of 32 x 18 cells.

    Videos outside the limits are skipped. With `segments`, they are first searched for sequences of
    consecutive shots within the limits; each of these is then treated like a video.

    `features` is `embedded` (colour and layout), or the path or hub name of a SigLIP or CLIP checkpoint.
    """

    source: Literal["shots", "change", "auto"] = Field("auto", description="what clips are: see above")
    segments: bool = Field(True, description="use parts of videos that are outside the limits: see above")
    min_shots: int = Field(4, ge=1, description="minimum number of usable shots, if none are divided")
    max_shots: int = Field(32, ge=1, description="maximum number of usable shots, or of parts of them")
    max_shot_seconds: float = Field(16.0, gt=0, description="maximum length of a shot: see above")
    max_minutes: float = Field(3.0, gt=0, description="maximum length from the first to the last shot")
    min_change: float = Field(3.0, gt=0, description="minimum change to divide a shot: see above")
    features: str = Field("embedded", min_length=1, description="how shots are compared: see above")
    similarity: float = Field(0.8, gt=-1, le=1, description="cosine similarity above which shots are grouped")
    min_clips: int = Field(4, ge=2, description="minimum number of clips")
    max_group_clips: int = Field(3, ge=1, description="maximum number of clips in a group")
    group_divisor: int = Field(3, ge=1, description="a group has at most `num_clips // group_divisor` clips")

    @model_validator(mode="after")
    def _check_shots(self) -> Self:
        if self.min_shots > self.max_shots:
            raise ValueError(f"min_shots {self.min_shots} is above max_shots {self.max_shots}. Change one")
        return self


class SamplingConfig(Section):
    """How the model generates text."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy decoding")
    repetition_penalty: float = Field(1.05, ge=1, description="1 has no effect")
    batch_size: int = Field(32, ge=1, description="texts generated at a time; ignored with an endpoint")


class CaptionsConfig(SamplingConfig):
    """A caption for each clip: what changed since the previous clip.

    Used only with `responses.input_form = "captions"` or `pairs.verify`.
    """

    max_new_tokens: int = Field(512, ge=1, description="maximum length of a caption")
    retries: int = Field(2, ge=0, description="retries of an unusable caption; none at temperature 0")


class PerturbationsConfig(Section):
    """The perturbations of the clip order.

    The level is the number of segments that are shuffled or reversed; `drop` keeps one in `level` clips. A
    high level is easy to tell from the original order, a low one is hard. The rule `distinct` never gives the
    original order, and merges levels that have the same effect. The rule `paper` reproduces the released code
    with its faults.
    Two kinds are not part of the published method: `swap` exchanges two clips that are `level // 2` apart,
    and `replace` shows clips of another video in place of those that `drop` would drop, so that the rejected
    text is as long as the chosen one.
    """

    rule: Literal["distinct", "paper"] = Field("distinct", description="how kind and level change the order")
    kinds: tuple[Kind, ...] = Field(("drop", "shuffle", "reverse"), description="kinds of perturbations")
    levels: tuple[int, ...] = Field((16, 8, 4, 2), description="levels from easy to hard, each at least 2")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: list at least one kind, and each only once, got {self.kinds}")
        unknown = [kind for kind in self.kinds if kind in ("swap", "replace")]
        if self.rule == "paper" and unknown:
            raise ValueError(f"kinds: rule 'paper' has no {unknown}. Remove them, or use rule 'distinct'")
        if not self.levels or min(self.levels) < 2 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels: list at least one, each at least 2 and only once, got {self.levels}")
        return self


class ResponsesConfig(SamplingConfig):
    """The model's descriptions of each video and of its perturbations.

    `input_form` is what the model is given, in original or perturbed order: the captions of the clips (as in
    the released recipe), the key frames of the clips, or the stored frames of the whole video.
    """

    input_form: Literal["captions", "clips", "video"] = Field("captions", description="see above")
    max_new_tokens: int = Field(1024, ge=1, description="maximum length of a response")
    prompts: tuple[str, ...] = Field(
        (
            "Describe the video in detail.",
            "Describe what happens in the video, in order.",
            "Tell the events of the video from beginning to end.",
        ),
        min_length=1,
        description='prompts for training and for `input_form = "video"`; each video gets one of them',
    )


class PairsConfig(Section):
    """The filter that turns responses into preference pairs.

    With `length = "paper"`, as in the released filter, the chosen text of a drop pair must be the longer one.
    With `fair` it is the longer one in half of the pairs of each kind and level, so that length does not
    reveal it; few drop pairs remain. `any` has no such rule.

    `mirror` adds the mirror image of each pair: the perturbed video, with chosen and rejected text exchanged.
    Each text is then chosen as often as rejected. A mirrored pair needs a separate pass over its video.

    `verify` keeps only pairs whose chosen text agrees better with the captions of the clips than the rejected
    text does, by more than `verify_margin` (-1 to 1). Agreement is the share of captions that a text covers,
    multiplied by the share of pairs of these captions that it has in the right order. It helps if
    `responses.input_form` is `clips` or `video`; the clips are then captioned too.

    `import_from` reads pairs from a JSONL, JSON or Parquet file of tempo, TRL, ms-swift or LLaMA-Factory. For
    these, only `drop_duplicates` and `length = "fair"` have an effect. Pairs without a kind get the kind
    `other` and level 0.
    """

    import_from: str = Field("", description="file of pairs to use instead of generated ones")
    length: Literal["paper", "any", "fair"] = Field("paper", description="rule for lengths: see above")
    max_length_ratio: float = Field(1.5, ge=1, description="maximum ratio of word counts; not for drop pairs")
    drop_duplicates: bool = Field(True, description="keep only the hardest of pairs with the same texts")
    verify: bool = Field(False, description="keep only pairs that the captions support: see above")
    verify_margin: float = Field(0.0, ge=-1, lt=1, description="required difference in agreement (`verify`)")
    mirror: bool = Field(False, description="add the mirror image of each pair")


class AuditConfig(Section):
    """The audit: how well chosen and rejected texts can be distinguished without the video."""

    max_pairs: int = Field(2000, ge=1, description="maximum number of pairs for the text-only baselines")
    max_model_pairs: int = Field(500, ge=0, description="the same for the language model; 0 skips it")
