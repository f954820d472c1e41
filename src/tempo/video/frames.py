"""Frames that the model sees: sampled from a video at an even rate, stored as small JPEGs.

T frames, K key frames, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tempo.config import FramesConfig
from tempo.core.files import write_bytes
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, Image, Scaler, decode, fit_size
from tempo.video.faults import Watchdog, watched

#: A video that gives this many times `max_frames` is thinned while it is decoded.
MAX_SURPLUS = 4

#: Longer side over shorter side: Qwen2-VL's processors fail from 200 on, and rounding a small and thin frame
#: can double the ratio.
MAX_RATIO = 100


@dataclass(frozen=True)
class Frames:
    """Frames of a video at an even rate.

    `images` are RGB, uint8 [T, H, W, 3], `seconds` [T] their times from the first frame of the video on, and
    `fps` how many there are for one second of video.
    """

    images: Image
    seconds: NDArray[np.float64]
    fps: float


@dataclass(frozen=True)
class SampledFrames:
    """The same as JPEGs."""

    jpegs: list[bytes]
    seconds: list[float]
    fps: float


def read_frames(
    path: str | Path,
    *,
    fps: float = 1.0,
    max_frames: int = 600,
    max_pixels: int = 128 * 128,
    timeout_seconds: float = 120.0,
) -> Frames:
    """Frames of a video, taken in the middle of each 1 / `fps` seconds, as a run stores them.

    Of a video that gives more than `max_frames`, so many are taken evenly, and `fps` of the result is lower.
    A frame has at most `max_pixels`. Raises SkipRecord, a ValueError, where the file cannot be decoded, where
    a frame is more than 100 times as long as wide, or where no frame comes for `timeout_seconds`.
    """
    config = FramesConfig(fps=fps, max_frames=max_frames, max_pixels=max_pixels)
    sampled = sample_video(path, config, timeout_seconds)
    return Frames(decode_jpegs(sampled.jpegs), np.asarray(sampled.seconds), sampled.fps)


def sample_video(path: str | Path, config: FramesConfig, timeout_seconds: float = 120.0) -> SampledFrames:
    """What a Sampler takes of a whole video; raises SkipRecord."""

    def work(watchdog: Watchdog) -> SampledFrames:
        sampler = Sampler(config)
        for frame in decode(path, watchdog):
            sampler.add(frame)
        return sampler.finish()

    return watched(work, timeout_seconds)


class Sampler:
    """Takes the frame shown in the middle of each 1 / fps seconds from a stream of frames.

    Holds one decoded frame and at most MAX_SURPLUS * max_frames JPEGs, however long the video is. Of more,
    every second, then every fourth is kept, and `finish` gives those closest before the evenly spread ones.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config = config
        self._scaler = Scaler()
        self._shown: Frame | None = None
        self._jpegs: list[bytes] = []
        self._count = 0
        self._stride = 1

    def add(self, frame: Frame) -> None:
        """Takes the next frame of the video; raises SkipRecord for a shape that no model takes."""
        if self._shown is not None:
            self._take(self._shown, frame.start_seconds)
        else:
            _check_shape(*frame.size)
            # The size of the first frame is used for all, so that the frames of a video can be stacked.
            self._first_size = frame.size
        self._shown = frame

    def finish(self) -> SampledFrames:
        """Frames per second are lower than configured if there were more than max_frames.

        A video shorter than half an interval gives its last frame.
        """
        assert self._shown is not None, "finish() before any add()"
        self._take(self._shown, self._shown.end_seconds)
        if not self._count:
            jpegs = [self._encode(self._shown)]
            return SampledFrames(jpegs, [self._shown.start_seconds], self._config.fps)
        kept = [number // self._stride for number in spread(self._count, self._config.max_frames)]
        jpegs = [self._fitted(self._jpegs[i], len(kept)) for i in kept]
        seconds = [self._seconds(i * self._stride) for i in kept]
        return SampledFrames(jpegs, seconds, self._config.fps * len(kept) / self._count)

    def _take(self, frame: Frame, until_seconds: float) -> None:
        """Takes `frame` for each sample time before `until_seconds`; encoded once."""
        jpeg = b""
        while self._seconds(self._count) < until_seconds:
            if self._count % self._stride == 0:
                jpeg = jpeg or self._encode(frame)
                self._jpegs.append(jpeg)
            self._count += 1
            if len(self._jpegs) > MAX_SURPLUS * self._config.max_frames:
                self._jpegs, self._stride = self._jpegs[::2], 2 * self._stride

    def _seconds(self, number: int) -> float:
        return (number + 0.5) / self._config.fps

    def _size(self, num_frames: int) -> tuple[int, int]:
        """Width and height of each frame if there are so many."""
        max_pixels, total = self._config.max_pixels, self._config.max_total_pixels
        if total is not None:
            max_pixels = min(max_pixels, total // min(num_frames, self._config.max_frames))
        return fit_size(*self._first_size, max_pixels=max_pixels)

    def _encode(self, frame: Frame) -> bytes:
        """As small as the frame is certain to be in the end."""
        size = self._size(len(self._jpegs) + 1)
        return encode_jpeg(self._scaler.scale(frame.decoded, size), self._config.jpeg_quality)

    def _fitted(self, jpeg: bytes, num_frames: int) -> bytes:
        """The JPEG of one of so many frames, scaled down if they have too many pixels in all."""
        if self._config.max_total_pixels is None:
            return jpeg
        (image,), size = decode_jpegs([jpeg]), self._size(num_frames)
        if image.shape[1::-1] == size:
            return jpeg
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return encode_jpeg(small, self._config.jpeg_quality)


def spread(count: int, at_most: int) -> list[int]:
    """All of `count` indices, or the middles of `at_most` even parts of them."""
    if count <= at_most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * at_most) for part in range(at_most)]


def _check_shape(width: int, height: int) -> None:
    if max(width, height) > MAX_RATIO * min(width, height):
        detail = f"{width} x {height} pixels; models take at most {MAX_RATIO} to 1"
        raise SkipRecord("frame too thin", detail)


class FrameStore:
    """One file per video, `<id>.safetensors`, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, video_id: str) -> Path:
        """The file of a video."""
        return self.directory / f"{video_id}.safetensors"

    def has(self, video_id: str) -> bool:
        """Whether there are frames of the video."""
        return self.path(video_id).exists()

    def write(
        self,
        video_id: str,
        frames: Sequence[bytes],
        *,
        seconds: Sequence[float],
        fps: float,
        key_frames: Sequence[bytes] = (),
    ) -> None:
        """Replaces the file of a video in one step; frames are JPEGs, equal input gives equal bytes."""
        assert len(frames) == len(seconds), f"{len(frames)} frames, {len(seconds)} times"
        arrays: dict[str, Any] = {
            **_pack("frames", frames),
            **_pack("key_frames", key_frames),
            "seconds": np.asarray(seconds, np.float64),
            "fps": np.asarray(fps, np.float64),
        }
        write_bytes(self.path(video_id), safetensors.numpy.save(arrays))

    def write_key_frames(self, video_id: str, key_frames: Sequence[bytes]) -> None:
        """Adds or replaces key frames, two per clip in the order of clips; the frames must be there."""
        arrays = self._load(video_id)
        seconds, fps = arrays["seconds"].tolist(), float(arrays["fps"])
        self.write(video_id, _unpack("frames", arrays), seconds=seconds, fps=fps, key_frames=key_frames)

    def read(self, video_id: str) -> Frames:
        """The frames of a video; raises FileNotFoundError."""
        arrays = self._load(video_id)
        return Frames(decode_jpegs(_unpack("frames", arrays)), arrays["seconds"], float(arrays["fps"]))

    def read_seconds(self, video_id: str) -> NDArray[np.float64]:
        """The times of the frames of a video in seconds, [T]; raises FileNotFoundError."""
        return self._load(video_id)["seconds"]

    def read_jpegs(self, video_id: str) -> list[bytes]:
        """The frames of a video as they are stored; raises FileNotFoundError."""
        return _unpack("frames", self._load(video_id))

    def read_key_frames(self, video_id: str) -> Image:
        """Key frames uint8 [K, H, W, 3] in RGB, two per clip; ValueError where none are stored yet."""
        key_frames = _unpack("key_frames", self._load(video_id))
        if not key_frames:
            raise ValueError(f"{self.path(video_id)} holds no key frames: the stage `clips` writes them")
        return decode_jpegs(key_frames)

    def _load(self, video_id: str) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(self.path(video_id).read_bytes())
        return arrays


def encode_jpeg(image: Image, quality: int) -> bytes:
    """A JPEG of an RGB image, uint8 [H, W, 3]."""
    # With halved colour (4:2:0), objects of a few pixels would blur at 128 pixels a side.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    is_done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert is_done, f"no JPEG of {image.shape}"
    return bytes(data)


def decode_jpegs(jpegs: Sequence[bytes]) -> Image:
    """Images uint8 [T, H, W, 3] in RGB of one or more JPEGs of one size."""
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


def _pack(name: str, jpegs: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """JPEGs as one array of bytes, and the offsets at which each begins and the last ends."""
    offsets = np.cumsum([0, *map(len, jpegs)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(jpegs), np.uint8), f"{name}_offsets": offsets}


def _unpack(name: str, arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    data, offsets = arrays[name].tobytes(), arrays[f"{name}_offsets"].tolist()
    return [data[start:end] for start, end in itertools.pairwise(offsets)]
