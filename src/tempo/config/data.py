"""From videos to clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tempo.config.base import Section

#: Of one stored frame at least.
MIN_PIXELS = 64

#: Frame sizes for models from the hub: pixels of one frame, and of all frames of a video. Nine million pixels
#: are about 6,000 tokens of Qwen2.5-VL; a video and its answers must fit `training.max_tokens`.
HUB_MAX_PIXELS, HUB_TOTAL_PIXELS = 200_704, 9_000_000


class SyntheticConfig(Section):
    """The embedded world: `num_videos` stories to learn from and `num_held_out` to evaluate on.

    `order_fidelity` is the share of instruction answers about several events that tell their true order; the
    others tell a random one. Instruction data of the world, like that of the field, seldom depends on order.
    """

    num_videos: int = Field(160, ge=1)
    num_held_out: int = Field(60, ge=1)
    min_shots: int = Field(4, ge=2, description="shots of a story, at least")
    max_shots: int = Field(16, le=16, description="shots of a story, at most")
    plain_share: float = Field(
        0.1, ge=0, le=1, description="share of `num_videos` with one to three shots: too poor in time"
    )
    order_fidelity: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> SyntheticConfig:
        _check_range(self.min_shots, self.max_shots)
        return self


class VideosConfig(Section):
    """Files and folders to take videos from; folders are searched to any depth."""

    paths: tuple[str, ...] = Field((), description="none beside a `[synthetic]` section, else one at least")
    extensions: tuple[str, ...] = Field(
        (
            *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts"),
            *("flv", "wmv", "asf", "3gp", "ogv", "vob", "mxf"),
        ),
        min_length=1,
        description="of files in folders; a file that is named itself may have any",
    )
    timeout_seconds: float = Field(120.0, gt=0, description="longest wait for the next picture of a video")


class FramesConfig(Section):
    """The frame store: what the model sees. A frame is taken in the middle of each 1 / `fps` seconds.

    Under `max_total_pixels`, the more frames a video has, the smaller they are; key frames are not.
    """

    fps: float = Field(1.0, gt=0)
    max_frames: int = Field(600, ge=2, description="of a video; a longer one is seen at a lower rate")
    max_pixels: int = Field(128 * 128, ge=MIN_PIXELS, description="pixels of one stored frame at most")
    max_total_pixels: int | None = Field(None, description="of all frames of a video; no limit where unset")
    jpeg_quality: int = Field(95, ge=1, le=100, description="of stored frames")

    @model_validator(mode="after")
    def _check(self) -> FramesConfig:
        least, most = MIN_PIXELS * self.max_frames, self.max_pixels * self.max_frames
        if self.max_total_pixels is not None and not least <= self.max_total_pixels < most:
            raise ValueError(
                f"max_total_pixels {self.max_total_pixels} must be at least {least}, {MIN_PIXELS} for each "
                f"of max_frames, and under {most}, which max_frames and max_pixels keep anyway"
            )
        return self


class ShotsConfig(Section):
    """Shot detection and the shot filter: a shot that is too short or blank is left out."""

    detector: Literal["content", "adaptive", "transnet"] = Field(
        "content",
        description="adaptive: for fast camera moves; transnet: TransNetV2, learned (extra `transnet`)",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        description="the higher, the fewer cuts; unset is 27 for content, PySceneDetect's own for adaptive, "
        "0.5 (a probability) for transnet",
    )
    min_scene_seconds: float | None = Field(
        None, gt=0, description="of cuts closer than this one counts; unset is 0.6, as in PySceneDetect"
    )
    min_frames: int = Field(8, ge=1, description="frames of a shot, at least")
    min_seconds: float = Field(0.2, ge=0, description="length of a shot, at least")
    min_grey_range: int = Field(
        10, ge=0, le=255, description="brightest less darkest grey level in the middle of a shot, at least"
    )

    @model_validator(mode="after")
    def _check(self) -> ShotsConfig:
        if self.detector == "transnet" and (self.threshold or 0) >= 1:
            raise ValueError(f"threshold {self.threshold:g} is no probability; 'transnet' takes 0 to 1")
        if self.detector == "transnet" and self.min_scene_seconds is not None:
            raise ValueError("min_scene_seconds does nothing with 'transnet', which merges none; remove it")
        return self


class ClipsConfig(Section):
    """Which videos are rich in time, and which of their shots are one clip.

    Shots that look alike are a group; a clip is a run of shots of one group. The limits are those of a video
    that is taken.
    """

    min_shots: int = Field(4, ge=1, description="usable shots, at least")
    max_shots: int = Field(32, ge=1, description="usable shots, at most")
    max_shot_seconds: float = Field(16.0, gt=0, description="its longest shot, at most")
    features: str = Field(
        "embedded",
        min_length=1,
        description="what shots are compared by: colour and layout, or a SigLIP or CLIP checkpoint",
    )
    similarity: float = Field(0.8, gt=-1, le=1, description="cosine over which shots are grouped")
    min_clips: int = Field(4, ge=2, description="clips, at least")
    max_group_clips: int = Field(3, ge=1, description="clips of one group, at most")
    group_share: int = Field(3, ge=1, description="a group may hold at most num_clips // group_share clips")

    @model_validator(mode="after")
    def _check(self) -> ClipsConfig:
        _check_range(self.min_shots, self.max_shots)
        return self


def _check_range(min_shots: int, max_shots: int) -> None:
    if min_shots > max_shots:
        raise ValueError(f"min_shots {min_shots} is over max_shots {max_shots}: no video could pass")
