"""The frames that the model sees: sampled at a constant rate, stored as JPEGs. T: frames, K: key frames."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tempo.config import FramesConfig
from tempo.core.files import write_bytes
from tempo.core.records import Video
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, Image, Scaler, decode, fit_size
from tempo.video.faults import watched

#: During decoding, frames are thinned out when there are more than this many times `max_frames`.
MAX_SURPLUS = 4

#: Maximum aspect ratio. Qwen2-VL's processors fail at 200 and above, and rounding the size of a small, thin
#: frame can double its ratio.
MAX_RATIO = 100


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a video at a constant rate `fps`; `seconds` [T] are their times since the first frame."""

    jpegs: list[bytes]
    seconds: NDArray[np.float64]
    fps: float

    @functools.cached_property
    def images(self) -> Image:
        """The frames in RGB, uint8 [T, H, W, 3]."""
        return decode_jpegs(self.jpegs)


def read_frames(
    path: str | Path,
    *,
    fps: float = 1.0,
    max_frames: int = 600,
    max_pixels: int = 128 * 128,
    timeout_seconds: float = 120.0,
) -> Frames:
    """Frames of a video, from the middle of each interval of 1 / `fps` seconds, as a run stores them.

    A video with more than `max_frames` frames gives that many evenly spaced ones, and `fps` of the result is
    lower. A frame has at most `max_pixels` pixels. Raises SkipRecord, a ValueError, if the file cannot be
    decoded, if its aspect ratio is above 100, or if no frame arrives for `timeout_seconds`.
    """
    config = FramesConfig(fps=fps, max_frames=max_frames, max_pixels=max_pixels)
    return sample_video(path, config, timeout_seconds)


def sample_video(path: str | Path, config: FramesConfig, timeout_seconds: float = 120.0) -> Frames:
    """The frames that a Sampler takes from a whole video; raises SkipRecord as `read_frames` does."""
    return sample_frames(watched(decode(path), timeout_seconds), config)


def sample_frames(
    frames: Iterable[Frame],
    config: FramesConfig,
    *,
    start_seconds: float = 0.0,
    end_seconds: float = math.inf,
) -> Frames:
    """What a Sampler takes from the part of a video between two times; its times count from the first one.

    Raises SkipRecord if no frame is shown in that part, or for an aspect ratio that no model accepts.
    """
    sampler, length_seconds = Sampler(config), 0.0
    for frame in frames:
        if frame.start_seconds >= end_seconds:
            break
        length_seconds = frame.end_seconds
        if length_seconds > start_seconds:
            start = max(0.0, frame.start_seconds - start_seconds)
            end = min(length_seconds, end_seconds) - start_seconds
            sampler.add(replace(frame, start_seconds=start, end_seconds=end))
    if length_seconds <= start_seconds:
        detail = f"{start_seconds:g} to {end_seconds:g} of {length_seconds:g} seconds"
        raise SkipRecord("no frame in this part", detail)
    return sampler.finish()


def frame_shape(video: Video, config: FramesConfig) -> tuple[int, int, int, float]:
    """Number, height and width of the frames that a run stores of a video, and their rate per second."""
    wanted = max(1, round(video.duration_seconds * config.fps))
    count = min(wanted, config.max_frames)
    most = min(config.max_pixels, (config.max_total_pixels or sys.maxsize) // count)
    width, height = fit_size(video.width, video.height, max_pixels=most)
    return count, height, width, config.fps * count / wanted


class Sampler:
    """From a stream of frames, takes the one shown in the middle of each interval of 1 / fps seconds.

    Holds one decoded frame and at most MAX_SURPLUS * max_frames JPEGs, however long the video is. Beyond that
    it keeps every second frame, then every fourth and so on; `finish` uses the nearest earlier frame kept.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config, self._scaler = config, Scaler()
        self._shown: Frame | None = None
        self._jpegs: list[bytes] = []
        self._count, self._stride = 0, 1

    def add(self, frame: Frame) -> None:
        """Adds the next frame of the video; raises SkipRecord for an aspect ratio that no model accepts."""
        if self._shown:
            self._take(self._shown, frame.start_seconds)
        else:
            # All frames get the size of the first one, so that they can be stacked.
            self._first_size = width, height = frame.size
            if max(width, height) > MAX_RATIO * min(width, height):
                detail = f"{width} x {height} pixels; the maximum ratio is {MAX_RATIO} to 1"
                raise SkipRecord("frame too thin", detail)
        self._shown = frame

    def finish(self) -> Frames:
        """The sampled frames. For a video shorter than half an interval, this is its last frame."""
        assert self._shown, "finish() before any add()"
        self._take(self._shown, self._shown.end_seconds)
        fps = self._config.fps
        if not self._count:
            return Frames([self._encode(self._shown)], np.array([self._shown.start_seconds]), fps)
        # The middles of equal parts of the video.
        num_kept = min(self._count, self._config.max_frames)
        kept = [(2 * part + 1) * self._count // (2 * num_kept) // self._stride for part in range(num_kept)]
        jpegs = [self._fitted(self._jpegs[i], num_kept) for i in kept]
        seconds = (np.array(kept) * self._stride + 0.5) / fps
        return Frames(jpegs, seconds, fps * num_kept / self._count)

    def _take(self, frame: Frame, until_seconds: float) -> None:
        """Takes `frame` for each sample time before `until_seconds`."""
        jpeg = b""
        while (self._count + 0.5) / self._config.fps < until_seconds:
            if self._count % self._stride == 0:
                jpeg = jpeg or self._encode(frame)
                self._jpegs.append(jpeg)
            self._count += 1
            if len(self._jpegs) > MAX_SURPLUS * self._config.max_frames:
                self._jpegs, self._stride = self._jpegs[::2], 2 * self._stride

    def _encode(self, frame: Frame) -> bytes:
        size = fit_size(*self._first_size, max_pixels=self._config.max_pixels)
        return encode_jpeg(self._scaler.scale(frame.decoded, size), self._config.jpeg_quality)

    def _fitted(self, jpeg: bytes, num_frames: int) -> bytes:
        """The JPEG of one of `num_frames` frames, scaled down if they have too many pixels together."""
        max_pixels, total = self._config.max_pixels, self._config.max_total_pixels
        if total is None or total // num_frames >= max_pixels:
            return jpeg
        size = fit_size(*self._first_size, max_pixels=total // num_frames)
        small = cv2.resize(decode_jpegs([jpeg])[0], size, interpolation=cv2.INTER_AREA)
        return encode_jpeg(np.asarray(small, np.uint8), self._config.jpeg_quality)


@dataclass(frozen=True)
class FrameStore:
    """The stored frames: one file per video, `<id>.safetensors`, in 256 folders under `directory`."""

    directory: Path

    def path(self, video_id: str) -> Path:
        """The path of a video's file, which need not exist."""
        return self.directory / video_id[:2] / f"{video_id}.safetensors"

    def has(self, video_id: str) -> bool:
        """Whether frames of the video are stored."""
        return self.path(video_id).exists()

    def write(
        self,
        video_id: str,
        frames: Sequence[bytes],
        *,
        seconds: Sequence[float] | NDArray[np.float64],
        fps: float,
        key_frames: Sequence[bytes] = (),
    ) -> None:
        """Replaces the file of a video atomically; frames are JPEGs. The same input gives the same bytes."""
        assert len(frames) == len(seconds), f"{len(frames)} frames, {len(seconds)} times"
        arrays = {
            **_pack("frames", frames),
            **_pack("key_frames", key_frames),
            "seconds": np.asarray(seconds, np.float64),
            "fps": np.asarray(fps, np.float64),
        }
        write_bytes(self.path(video_id), safetensors.numpy.save(arrays))

    def write_key_frames(self, video_id: str, key_frames: Sequence[bytes]) -> None:
        """Adds or replaces a video's key frames, two per clip, in the order of the clips."""
        known = self.read(video_id)
        self.write(video_id, known.jpegs, seconds=known.seconds, fps=known.fps, key_frames=key_frames)

    def read(self, video_id: str) -> Frames:
        """The frames of a video; raises FileNotFoundError."""
        arrays = self._load(video_id)
        return Frames(_unpack("frames", arrays), arrays["seconds"], float(arrays["fps"]))

    def read_key_frames(self, video_id: str) -> Image:
        """Key frames uint8 [K, H, W, 3] in RGB, two per clip; raises FileNotFoundError."""
        return decode_jpegs(_unpack("key_frames", self._load(video_id)))

    def _load(self, video_id: str) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(self.path(video_id).read_bytes())
        return arrays


def encode_jpeg(image: Image, quality: int) -> bytes:
    """A JPEG of an RGB image, uint8 [H, W, 3]."""
    # Colour at half the resolution (4:2:0) would blur objects that are a few pixels wide.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    is_done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert is_done, f"no JPEG of {image.shape}"
    return bytes(data)


def decode_jpegs(jpegs: Sequence[bytes]) -> Image:
    """Images uint8 [T, H, W, 3] in RGB, from one or more JPEGs of the same size."""
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


def _pack(name: str, jpegs: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """JPEGs as one array of bytes and their offsets in it."""
    offsets = np.cumsum([0, *map(len, jpegs)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(jpegs), np.uint8), f"{name}_offsets": offsets}


def _unpack(name: str, arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    data, offsets = arrays[name].tobytes(), arrays[f"{name}_offsets"].tolist()
    return [data[start:end] for start, end in itertools.pairwise(offsets)]
