"""The frame store: what the model will see of each video, decoded once and kept as small JPEGs.

T frames, K key frames, H height, W width.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tempo.video.decoding import Image


class Stored(NamedTuple):
    """Frames uint8 [T, H, W, 3] in RGB, their times in seconds [T], and frames per second of video."""

    frames: Image
    seconds: NDArray[np.float64]
    fps: float


class Sampled(NamedTuple):
    """What is kept of a video at an even rate: JPEGs, their times in seconds, frames per second."""

    frames: list[bytes]
    seconds: list[float]
    fps: float


class Looks(NamedTuple):
    """JPEGs by which clips are made: of frames that may become key frames, and the middle of each shot."""

    candidates: dict[int, bytes]
    middles: list[bytes]


class FrameStore:
    """One file per video, `<id>.safetensors`, in `directory`.

    Beside it, until clips are made, the video's looks in `looks/<id>.safetensors`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, video_id: str) -> Path:
        """Where the frames of a video lie."""
        return self.directory / f"{video_id}.safetensors"

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
        _replace(self.path(video_id), arrays)

    def write_key_frames(self, video_id: str, key_frames: Sequence[bytes]) -> None:
        """Adds key frames, two per clip in the order of clips, or replaces them; the frames must be there."""
        arrays = _load(self.path(video_id))
        frames = _unpack("frames", arrays)
        fps = float(arrays["fps"])
        self.write(video_id, frames, seconds=arrays["seconds"].tolist(), fps=fps, key_frames=key_frames)

    def write_looks(self, video_id: str, looks: Looks) -> None:
        """Replaces the looks of a video in one step."""
        numbers = np.asarray(list(looks.candidates), np.int64)
        pictures = _pack("candidates", list(looks.candidates.values()))
        arrays = {"numbers": numbers, **pictures, **_pack("middles", looks.middles)}
        # Waiting for the disk takes longer than a short video; they can be made again.
        _replace(self._looks(video_id), arrays, is_durable=False)

    def read_looks(self, video_id: str) -> Looks | None:
        """The looks of a video; None where they were discarded, or a power cut has torn them."""
        try:
            arrays = _load(self._looks(video_id))
        except (FileNotFoundError, safetensors.SafetensorError):
            return None
        candidates = zip(arrays["numbers"].tolist(), _unpack("candidates", arrays), strict=True)
        return Looks(dict(candidates), _unpack("middles", arrays))

    def discard_looks(self, video_id: str) -> None:
        """Removes the looks of a video, if there are any."""
        self._looks(video_id).unlink(missing_ok=True)

    def _looks(self, video_id: str) -> Path:
        return self.directory / "looks" / f"{video_id}.safetensors"

    def has(self, video_id: str) -> bool:
        """Whether the frames of a video are there."""
        return self.path(video_id).exists()

    def read(self, video_id: str) -> Stored:
        """The frames of a video, their times and their rate; raises FileNotFoundError."""
        arrays = _load(self.path(video_id))
        frames = decode_jpegs(_unpack("frames", arrays))
        return Stored(frames, arrays["seconds"], float(arrays["fps"]))

    def read_seconds(self, video_id: str) -> NDArray[np.float64]:
        """The times of the frames of a video in seconds, [T]; raises FileNotFoundError."""
        return _load(self.path(video_id))["seconds"]

    def read_jpegs(self, video_id: str) -> list[bytes]:
        """The frames of a video as they are stored; raises FileNotFoundError."""
        return _unpack("frames", _load(self.path(video_id)))

    def read_key_frames(self, video_id: str) -> Image:
        """Key frames uint8 [K, H, W, 3] in RGB, two per clip; ValueError where none were chosen yet."""
        key_frames = _unpack("key_frames", _load(self.path(video_id)))
        if not key_frames:
            raise ValueError(f"{self.path(video_id)} holds no key frames: the clips stage writes them")
        return decode_jpegs(key_frames)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """A JPEG of an RGB image, uint8 [H, W, 3]."""
    # At 128 pixels a side, halved colour (4:2:0) would smear things of a few pixels.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, f"no JPEG of {image.shape}"
    return bytes(data)


def decode_jpegs(jpegs: Sequence[bytes]) -> Image:
    """Images uint8 [T, H, W, 3] in RGB of JPEGs of one size, at least one."""
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


def _replace(path: Path, arrays: dict[str, Any], *, is_durable: bool = True) -> None:
    """Writes arrays as `path` in one step; what cannot be written to its end leaves nothing behind.

    What is not durable survives a kill, but no power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a killed process left is overwritten when its video is done again.
    temporary = path.with_name(f".{path.stem}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(safetensors.numpy.save(arrays))
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(path.read_bytes())
    return arrays


def _pack(name: str, jpegs: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """JPEGs as one array of bytes and the offsets at which each begins, and the last ends."""
    offsets = np.cumsum([0, *map(len, jpegs)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(jpegs), np.uint8), f"{name}_offsets": offsets}


def _unpack(name: str, arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    data, offsets = arrays[name].tobytes(), arrays[f"{name}_offsets"].tolist()
    return [data[start:end] for start, end in itertools.pairwise(offsets)]
