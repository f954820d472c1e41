"""What the stages hand to each other: one record type per JSONL file.

Every record is frozen and carries the `id` of the video it belongs to (pairs carry their own), so that a
stage can be resumed, sorted and joined by id alone. Frame numbers count decoded frames from 0; times are
presentation times in seconds from the first frame on.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

Kind = Literal["drop", "shuffle", "reverse", "swap"]

#: `other`: the pair was made elsewhere, from what is not known.
PairKind = Literal["drop", "shuffle", "reverse", "swap", "other"]


class Frozen(BaseModel):
    """A value that does not change and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Frozen):
    """One row of a stage's JSONL file."""

    id: str


class Skipped(Record):
    """A record that a stage set aside: `reason` is a short fixed phrase, `detail` the figure or message."""

    stage: str
    reason: str
    detail: str = ""


class Video(Record):
    """A file with a video stream, as its container tells; whether it decodes, the next stage finds.

    `id` is derived from the content, never from the path; `width` and `height` are those before any rotation.
    `copies` are other files with the same content, which stand in for it should it go.
    """

    path: str
    copies: tuple[str, ...] = ()
    duration_seconds: float
    width: int
    height: int
    fps: float
    codec: str


class Shot(Frozen):
    """Frames `start_frame` up to, not including, `end_frame` of one camera shot.

    `candidates` are the frames that may become key frames, `sharpness` is that of each. `time_stamps` are
    what the candidates and the frame in the middle are found by: for a frame number its time stamp and that
    of the last key frame before it, in the time base of the stream. Frames without time stamps are missing
    there.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    grey_range: int
    descriptor: tuple[float, ...]
    candidates: tuple[int, ...]
    sharpness: tuple[float, ...]
    time_stamps: dict[int, tuple[int, int]] = {}

    @property
    def num_frames(self) -> int:
        """Decoded frames in the shot."""
        return self.end_frame - self.start_frame

    @property
    def seconds(self) -> float:
        """Length of the shot in seconds."""
        return self.end_seconds - self.start_seconds


class RejectedShot(Frozen):
    """Frames of a shot that the shot filter took out, and the figure and limit for which it did."""

    start_frame: int
    end_frame: int
    reason: str


class Shots(Record):
    """The usable shots of a video, and those that are not, in time order."""

    path: str
    num_frames: int
    duration_seconds: float
    shots: tuple[Shot, ...]
    rejected: tuple[RejectedShot, ...] = ()


class Clip(Frozen):
    """Consecutive shots of one group; `key_frames` are decoded frame numbers, earliest first."""

    group: int
    first_shot: int
    num_shots: int
    start_seconds: float
    end_seconds: float
    key_frames: tuple[int, ...]


class Clips(Record):
    """The clips of a temporally rich video, in time order; frames lie in the frame store under `id`."""

    path: str
    duration_seconds: float
    clips: tuple[Clip, ...]


class Captions(Record):
    """One caption per clip, in time order, made by the model itself."""

    captions: tuple[str, ...]


class Perturbation(Frozen):
    """An order of clip indices, `kind` at `level`; `0, 1, .., num_clips - 1` only by the rule `paper`.

    `kept_share` is the share of clips that remain, `kendall_distance` the share of clip pairs whose order is
    turned round (0 for a drop, 1 for a full reversal).
    """

    kind: Kind
    level: int
    order: tuple[int, ...]
    num_clips: int
    kept_share: float
    kendall_distance: float


class Perturbations(Record):
    """All perturbations of a video that are worth asking about."""

    num_clips: int
    perturbations: tuple[Perturbation, ...]


class Response(Frozen):
    """What the model said of a perturbed video."""

    perturbation: Perturbation
    text: str


class Unanswered(Frozen):
    """A perturbation that got no usable answer, and why."""

    kind: Kind
    level: int
    reason: str


class Responses(Record):
    """What the model said of a video clean (`chosen`) and perturbed, and what it left unanswered."""

    num_clips: int
    chosen: str
    rejected: tuple[Response, ...]
    unanswered: tuple[Unanswered, ...] = ()


class Pair(Record):
    """A training pair; `id` is video id, kind and level. `order` is the perturbation that made `rejected`.

    A pair made elsewhere (`pairs.import_from`) may be of the kind `other`, with level 0 and no order. A
    mirrored pair (`pairs.mirror`) is about the perturbed video: `frames` are the numbers of the stored frames
    that show it, in their order; empty for the video as filmed.
    """

    video_id: str
    video: str
    prompt: str
    chosen: str
    rejected: str
    kind: PairKind
    level: int
    order: tuple[int, ...]
    num_clips: int
    frames: tuple[int, ...] = ()


class Instruction(Record):
    """One question about a video and its answer; `video` is a path, relative to the file it stands in."""

    video: str
    question: str
    answer: str


class Sample(Record):
    """One benchmark question: the model is right if `options[answer]` is its likeliest option.

    `video` is a path, relative to the file it stands in. Samples of one `group` are conflicting videos: they
    share their options, and each video makes another one right.
    """

    video: str
    aspect: str
    format: str
    question: str
    options: tuple[str, ...]
    answer: int
    group: str = ""

    @model_validator(mode="after")
    def _check(self) -> Sample:
        if len(self.options) < 2:
            raise ValueError(f"{len(self.options)} options, a choice needs two at least")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"answer {self.answer} is none of {len(self.options)} options")
        return self


class Outcome(Record):
    """What a model made of a sample: the log-likelihood of every option."""

    aspect: str
    format: str
    answer: int
    log_likelihoods: tuple[float, ...]
    group: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the right option is the likeliest; a tie is wrong."""
        right = self.log_likelihoods[self.answer]
        return all(right > other for i, other in enumerate(self.log_likelihoods) if i != self.answer)
