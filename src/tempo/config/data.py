"""Sections about videos: where they come from, which frames are stored, and how they are cut into clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import Section

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

    @model_validator(mode="after")
    def _check_shots(self) -> SyntheticConfig:
        _check_range(self.min_shots, self.max_shots)
        return self


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
            raise ValueError(
                f"max_total_pixels {self.max_total_pixels} is too small for max_frames {self.max_frames}. "
                f"Each frame needs {MIN_PIXELS} pixels, so give at least {least}"
            )
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
    min_grey_range: int = Field(
        10, ge=0, le=255, description="minimum range of grey levels in the middle of a shot"
    )

    @model_validator(mode="after")
    def _check_probability(self) -> ShotsConfig:
        if self.detector == "transnet" and self.threshold is not None and self.threshold >= 1:
            raise ValueError(
                f"threshold {self.threshold:g} would find no cut. With detector 'transnet' it is a "
                "probability between 0 and 1"
            )
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
        _check_range(self.min_shots, self.max_shots)
        return self


def _check_range(min_shots: int, max_shots: int) -> None:
    if min_shots > max_shots:
        raise ValueError(
            f"min_shots {min_shots} is larger than max_shots {max_shots}, so no video could pass. "
            "Lower min_shots or raise max_shots"
        )
