"""Decoding: a video file as a stream of pictures, of which only the one in hand is in memory.

Read with PyAV, since OpenCV's wheel opens AV1, claims frames and reads none. Nothing is believed of the
container's duration and frame count: what decodes is what there is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.stream
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from tempo.engine.types import SkipRecord
from tempo.video.faults import read_error

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

#: Nothing shows one picture for longer: a longer step is a damaged time stamp.
MAX_GAP_SECONDS = 3600.0

#: Averaging, with every colour sample.
_SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INP

#: For a file that tells neither times nor a rate that can be.
FALLBACK_FPS = 25.0


@dataclass
class Picture:
    """One decoded frame, the `index`-th from 0; converted only to the sizes that are asked of it.

    Shown from `start_seconds` to `end_seconds`, counted from the first frame of the video, and turned
    `quarter_turns` (0 to 3) counterclockwise.
    """

    index: int
    start_seconds: float
    end_seconds: float
    frame: Any
    quarter_turns: int
    _scalers: dict[tuple[int, int], Any] = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as shown: rotated if the file says so."""
        width, height = self.frame.width, self.frame.height
        return (height, width) if self.quarter_turns % 2 else (width, height)

    @property
    def num_bytes(self) -> int:
        """What the decoded frame takes in memory."""
        return sum(plane.buffer_size for plane in self.frame.planes)

    def scaled(self, width: int, height: int) -> Image:
        """The picture as shown, RGB, uint8 [height, width, 3]."""
        coded = (height, width) if self.quarter_turns % 2 else (width, height)
        # One scaler per size lives as long as the video: setting one up costs more than a small picture.
        scaler = self._scalers.setdefault(coded, VideoReformatter())
        # Planes and no pixels: libswscale gives the same numbers in half the time. One thread: waking others
        # takes longer than a small picture.
        frame = scaler.reformat(self.frame, *coded, "gbrp", interpolation=_SCALING, threads=1)
        green, blue, red = (
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: coded[1], : coded[0]]
            for plane in frame.planes
        )
        return turned(np.asarray(cv2.merge([red, green, blue]), np.uint8), self.quarter_turns)


def turned(pixels: Image, quarter_turns: int) -> Image:
    """The pixels turned counterclockwise, in a row in memory."""
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


@dataclass(frozen=True)
class Header:
    """What the container claims, width and height as coded, before any rotation; 0 where it says nothing."""

    duration_seconds: float
    width: int
    height: int
    fps: float
    codec: str


def decode(path: str | Path) -> Generator[Picture, None, None]:
    """All pictures that decode, in order of presentation; damaged packets are skipped and logged.

    Raises SkipRecord ("no such file", "empty file", "cannot be opened", "no video stream", "no frame decodes").
    """
    with _open(path) as (container, stream):
        fps = _header(container, stream).fps
        # A damaged rate can be a picture in a million years.
        default_seconds = 1 / (fps if fps * MAX_GAP_SECONDS >= 1 else FALLBACK_FPS)
        scalers: dict[tuple[int, int], Any] = {}
        errors: list[str] = []
        first_pts, start, end = None, 0.0, 0.0
        index = -1
        for index, frame in enumerate(_frames(container, stream, errors)):
            first_pts = frame.pts if first_pts is None else first_pts
            start, end = _span(frame, first_pts, start, end, default_seconds)
            turns = int(round(frame.rotation / 90) % 4)
            yield Picture(index, start, end, frame, turns, scalers)
        if index < 0:
            raise SkipRecord("no frame decodes", errors[0] if errors else "the stream is empty")
        if errors:
            log.warning("%s: %d damaged packets skipped: %s", path, len(errors), errors[0])


def read_header(path: str | Path) -> Header:
    """The container's claims; nothing is decoded. Raises SkipRecord like `decode`."""
    # FFmpeg looks into the first pictures for what only their decoding needs, and that is most of the time.
    with _open(path, skip_frame="all") as (container, stream):
        return _header(container, stream)


@contextlib.contextmanager
def _open(path: str | Path, **options: str) -> Iterator[tuple[Any, Any]]:
    """The container and its film; raises SkipRecord."""
    _check_file(Path(path))
    try:
        # The prefix keeps a name like `concat:x` from being a protocol; the whitelist keeps a playlist that
        # is named .mp4 from reaching the network; tags that are not UTF-8 are no reason to refuse a film.
        options["protocol_whitelist"] = "file"
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise read_error(OSError(error.errno, error.strerror), path) from None
        raise SkipRecord("cannot be opened", str(error)) from None
    with container:
        yield container, _video_stream(container)


def _check_file(path: Path) -> None:
    """Raises SkipRecord for what is no file with a content, and MachineFault where the disk does not answer.

    FFmpeg gives a damaged file and a damaged disk the same error.
    """
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            # Why a folder could not be searched, where it comes here for that.
            os.listdir(path)
        if not stat.S_ISREG(state.st_mode):
            raise SkipRecord("cannot be opened", f"{path} is not a regular file")
        if state.st_size == 0:
            raise SkipRecord("empty file", str(path))
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise read_error(error, path) from None


def _video_stream(container: Any) -> Any:
    """The stream that ffmpeg takes by default; raises SkipRecord."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(other.type for other in container.streams) or "none"
        raise SkipRecord("no video stream", f"streams: {kinds}" + (", cover art" if stream else ""))
    if stream.codec_context is None:
        raise SkipRecord("no frame decodes", "no decoder for this codec")
    # Several would paint over damage each time in another way. The cores are for videos side by side, whose
    # decoders would else have up to 16 threads each.
    stream.codec_context.thread_count = 1
    return stream


def _header(container: Any, stream: Any) -> Header:
    if stream.duration:
        duration_seconds = float(stream.duration * stream.time_base)
    else:
        duration_seconds = (container.duration or 0) / av.time_base
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    coded = stream.codec_context
    return Header(
        duration_seconds=max(0.0, duration_seconds),
        width=coded.width,
        height=coded.height,
        fps=max(0.0, fps),
        codec=coded.codec.canonical_name,
    )


def _frames(container: Any, stream: Any, errors: list[str]) -> Iterator[Any]:
    """Frames packet by packet: one that fails goes to `errors`, and the next one is tried, as players do."""
    try:
        for packet in _packets(container, stream):
            try:
                yield from packet.decode()
            except av.error.FFmpegError as error:
                errors.append(str(error))
    except av.error.FFmpegError as error:
        errors.append(str(error))


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets of the stream."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            # PyAV's way to meet a packet of a stream that begins half-way: asked again, it reads on.
            continue


def _span(
    frame: Any, first_pts: int | None, start: float, end: float, default_seconds: float
) -> tuple[float, float]:
    """When `frame` is shown, after one that was shown from `start` to `end`; never earlier than that one.

    A missing or impossible time stamp is replaced: the frame follows its predecessor.
    """
    base = frame.time_base
    told = float((frame.pts - first_pts) * base) if frame.pts is not None and base else end
    begins = told if start <= told <= end + MAX_GAP_SECONDS else end
    length = float((frame.duration or 0) * base) if base else 0.0
    return begins, begins + (length if 0 < length <= MAX_GAP_SECONDS else default_seconds)
