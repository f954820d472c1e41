"""Decoding: a video file as a stream of frames, one in memory at a time; single frames by time stamp.

PyAV, because OpenCV's wheel opens AV1 files and reads no frame of them. The duration and number of frames
that a container states are not used: they are often wrong.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import stat
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.filter
import av.stream
import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.engine.types import SkipRecord
from tempo.video.faults import Watchdog, read_error

log = logging.getLogger(__name__)

#: RGB, uint8 [height, width, 3].
Image: TypeAlias = NDArray[np.uint8]

#: A longer step between two frames is a damaged time stamp.
MAX_GAP_SECONDS = 3600.0

#: For a file that states neither times nor a possible frame rate.
FALLBACK_FPS = 25.0

#: Filters that turn a frame counterclockwise by 0 to 3 quarters.
_ROTATION: tuple[list[tuple[str, str]], ...] = (
    [],
    [("transpose", "cclock")],
    [("hflip", ""), ("vflip", "")],
    [("transpose", "clock")],
)


@dataclass(frozen=True)
class Frame:
    """Frame number `index` of a video, counted from 0 in order of presentation.

    Shown from `start_seconds` to `end_seconds` after the first frame. `size` is width and height in pixels as
    players show it: rotated, with square pixels. `decoded` is FFmpeg's frame.
    """

    index: int
    start_seconds: float
    end_seconds: float
    size: tuple[int, int]
    decoded: av.VideoFrame


@dataclass(frozen=True)
class Header:
    """What the container states, width and height before rotation; 0 where it states nothing."""

    duration_seconds: float
    width: int
    height: int
    fps: float
    codec: str


class Scaler:
    """Scales the frames of one video with FFmpeg's filter graph, built once for frames of one kind."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] = ()
        self._graph: Any = None

    def scale(self, decoded: av.VideoFrame, size: tuple[int, int]) -> Image:
        """The frame as players show it, in this width and height."""
        kind = (size, decoded.width, decoded.height, decoded.format.name)
        if kind != self._kind:
            self._kind, self._graph = (), _scaling_graph(decoded, size)
            self._kind = kind
        self._graph.push(decoded)
        width, height = size
        # Planar output costs libswscale half of what packed output does.
        green, blue, red = (
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
            for plane in self._graph.vpull().planes
        )
        return np.asarray(cv2.merge([red, green, blue]), np.uint8)


def _scaling_graph(decoded: av.VideoFrame, size: tuple[int, int]) -> Any:
    graph = av.filter.Graph()
    # Waking other threads takes longer than scaling a small frame.
    graph.threads = 1
    time_base = decoded.time_base or av.time_base
    source = graph.add_buffer(
        width=decoded.width, height=decoded.height, format=decoded.format.name, time_base=time_base
    )
    turns = _quarter_turns(decoded)
    width, height = size[::-1] if turns % 2 else size
    filters = [("scale", f"{width}:{height}:flags=area+full_chroma_inp"), ("format", "gbrp")]
    nodes = [graph.add(name, options) for name, options in [*filters, *_ROTATION[turns], ("buffersink", "")]]
    graph.link_nodes(source, *nodes).configure()
    return graph


def decode(path: str | Path, watchdog: Watchdog | None = None) -> Generator[Frame, None, None]:
    """All frames that decode, in order of presentation; damaged packets are skipped and logged.

    The clock of the watchdog runs only while the decoder works. Raises SkipRecord ("no such file", "empty
    file", "cannot be opened", "no video stream" or "no frame decodes").
    """
    errors: list[str] = []
    index = -1
    watchdog = watchdog or Watchdog(math.inf)
    watchdog.tick()
    with _open(path) as (container, stream):
        fps = _header(container, stream).fps
        # A damaged rate can be one frame in a million years.
        default_seconds = 1 / (fps if fps * MAX_GAP_SECONDS >= 1 else FALLBACK_FPS)
        first_pts, start, end = None, 0.0, 0.0
        coded_size, size = None, (0, 0)
        for index, decoded in enumerate(_frames(container, stream, errors, watchdog)):
            first_pts = decoded.pts if first_pts is None else first_pts
            start, end = _span(decoded, first_pts, start, end, default_seconds)
            if (decoded.width, decoded.height) != coded_size:
                coded_size, size = (decoded.width, decoded.height), _shown_size(decoded, stream)
            yield Frame(index, start, end, size, decoded)
    if index < 0:
        raise SkipRecord("no frame decodes", errors[0] if errors else "the stream is empty")
    if errors:
        log.warning("%s: %d damaged packets skipped: %s", path, len(errors), errors[0])


def decode_at(
    path: str | Path, wanted: Mapping[int, tuple[int, int] | None], watchdog: Watchdog | None = None
) -> Iterator[tuple[int, tuple[int, int], av.VideoFrame]]:
    """The frames with these numbers, in order, each with its number and its size as players show it.

    A number comes with the time stamps of its frame and of the key frame before it, in the stream's time
    base: FFmpeg seeks to the key frame, and the frame is the one with exactly that time stamp. Where a number
    has no time stamps, or a frame is not found by them, the file is decoded from the start and frames are
    counted. Raises SkipRecord like `decode`, and "frame not found".
    """
    missing = dict(sorted(wanted.items()))
    for number, size, decoded in _seek(path, dict(missing), watchdog or Watchdog(math.inf)):
        del missing[number]
        yield number, size, decoded
    for frame in decode(path, watchdog) if missing else ():
        if frame.index in missing:
            del missing[frame.index]
            yield frame.index, frame.size, frame.decoded
        if not missing:
            return
    if missing:
        raise SkipRecord("frame not found", f"{path} has no frame {min(missing)}")


def _seek(
    path: str | Path, wanted: dict[int, tuple[int, int] | None], watchdog: Watchdog
) -> Iterator[tuple[int, tuple[int, int], av.VideoFrame]]:
    """Ends at the first frame that is not found at its time stamp."""
    watchdog.tick()
    with _open(path) as (container, stream):
        at: int | None = None
        frames: Iterator[av.VideoFrame] = iter(())
        wanted_pts = {stamps[0] for stamps in wanted.values() if stamps}
        for number, stamps in wanted.items():
            if stamps is None:
                return
            pts, key_pts = stamps
            if at is None or key_pts > at:
                frames = _frames_from(container, stream, pts, wanted_pts, watchdog)
            decoded = next((one for one in frames if (one.pts or 0) >= pts), None)
            if decoded is None or decoded.pts != pts or decoded.is_corrupt:
                return
            at = pts
            yield number, _shown_size(decoded, stream), decoded


def _frames_from(
    container: Any, stream: Any, pts: int, wanted_pts: set[int], watchdog: Watchdog
) -> Iterator[av.VideoFrame]:
    """Frames from the key frame before `pts` on; none where seeking ends anywhere else.

    Frames that are neither wanted nor needed to decode others are left out.
    """
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(pts, stream=stream)
        frames = _frames(container, stream, [], watchdog, wanted_pts)
        first = next(frames, None)
        if first is not None and first.key_frame and first.pts is not None and first.pts <= pts:
            yield first
            yield from frames


def read_header(path: str | Path) -> Header:
    """What the container states; nothing is decoded. Raises SkipRecord like `decode`."""
    # Without this, FFmpeg decodes the first frames for details that are not needed here: most of the time.
    with _open(path, skip_frame="all") as (container, stream):
        return _header(container, stream)


def fit_size(width: int, height: int, *, max_pixels: int) -> tuple[int, int]:
    """The largest width and height of about this ratio within `max_pixels`; never enlarged, at least 1."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    # A long and thin frame keeps at least one pixel across and is shortened for it.
    fitted_height = max(1, int(height * scale))
    fitted_width = max(1, min(int(width * scale), max_pixels // fitted_height))
    return fitted_width, min(fitted_height, max_pixels // fitted_width)


@contextlib.contextmanager
def _open(path: str | Path, **options: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; raises SkipRecord."""
    _check_file(Path(path))
    # The whitelist and the prefix: a playlist named .mp4 must not reach the network, and a file named
    # `concat:x` is a file. Tags that are not UTF-8 are no reason to reject a video.
    options["protocol_whitelist"] = "file"
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise read_error(OSError(error.errno, error.strerror), path) from None
        raise SkipRecord("cannot be opened", str(error)) from None
    with container:
        yield container, _video_stream(container)


def _check_file(path: Path) -> None:
    """Raises SkipRecord for a path that is not a file with content, and MachineFault where the disk fails.

    FFmpeg reports a damaged file and a failing disk by the same error.
    """
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            # Raises where the folder is here because it could not be searched.
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
    # With several threads, damaged frames decode differently each time. Cores are used by videos side by
    # side.
    stream.codec_context.thread_count = 1
    return stream


def _header(container: Any, stream: Any) -> Header:
    if stream.duration:
        duration_seconds = float(stream.duration * stream.time_base)
    else:
        duration_seconds = (container.duration or 0) / av.time_base
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    context = stream.codec_context
    codec = context.codec.canonical_name
    return Header(max(0.0, duration_seconds), context.width, context.height, max(0.0, fps), codec)


def _quarter_turns(decoded: av.VideoFrame) -> int:
    """Counterclockwise, 0 to 3."""
    return int(round(decoded.rotation / 90) % 4)


def _shown_size(decoded: av.VideoFrame, stream: Any) -> tuple[int, int]:
    width = max(1, round(decoded.width * float(stream.sample_aspect_ratio or 1)))
    return (decoded.height, width) if _quarter_turns(decoded) % 2 else (width, decoded.height)


def _frames(
    container: Any, stream: Any, errors: list[str], watchdog: Watchdog, wanted_pts: set[int] | None = None
) -> Iterator[av.VideoFrame]:
    """Frames packet by packet; a packet that fails is added to `errors` and the next one is tried."""
    try:
        for packet in _packets(container, stream):
            watchdog.tick()
            if wanted_pts is not None:
                is_wanted = packet.pts is None or packet.pts in wanted_pts
                stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            try:
                for frame in packet.decode():
                    watchdog.pause()
                    yield frame
                    watchdog.tick()
            except av.error.FFmpegError as error:
                errors.append(str(error))
    except av.error.FFmpegError as error:
        errors.append(str(error))
    watchdog.pause()


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            # PyAV raises this for a packet of a stream that begins in the middle of the file, and can go on.
            continue


def _span(
    frame: Any, first_pts: int | None, start: float, end: float, default_seconds: float
) -> tuple[float, float]:
    """Start and end in seconds of a frame that follows one shown from `start` to `end`.

    A missing or impossible time stamp is replaced: the frame then starts where the one before it ends.
    """
    # Integers, because arithmetic with fractions takes longer than all else here.
    ticks, per_second = frame.time_base.as_integer_ratio() if frame.time_base else (0, 1)
    stated = (frame.pts - first_pts) * ticks / per_second if frame.pts is not None and ticks else end
    begins = stated if start <= stated <= end + MAX_GAP_SECONDS else end
    length = (frame.duration or 0) * ticks / per_second
    return begins, begins + (length if 0 < length <= MAX_GAP_SECONDS else default_seconds)
