"""Decoding: a video file as a stream of frames, one in memory at a time, or single frames by timestamp.

We use PyAV because OpenCV's wheel cannot decode AV1. Durations are measured, because containers often state
wrong ones.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
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
from tempo.video.faults import check_file

log = logging.getLogger(__name__)

#: RGB, uint8 [height, width, 3].
Image: TypeAlias = NDArray[np.uint8]

#: A longer step between two frames means that a timestamp is damaged.
MAX_GAP_SECONDS = 3600.0


@dataclass(frozen=True)
class Frame:
    """Frame number `index` of a video, counted from 0 in order of presentation.

    It is shown from `start_seconds` to `end_seconds`, counted from the first frame. `size` is its width and
    height as players show it: rotated, with square pixels. `decoded` is FFmpeg's frame.
    """

    index: int
    start_seconds: float
    end_seconds: float
    size: tuple[int, int]
    decoded: av.VideoFrame


class Scaler:
    """Scales the frames of one video with an FFmpeg filter graph, built once per frame format."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] = ()
        self._graph: Any = None

    def scale(self, decoded: av.VideoFrame, size: tuple[int, int]) -> Image:
        """The frame as players show it, scaled to this width and height."""
        # Counterclockwise quarter turns.
        turns = round(decoded.rotation / 90) % 4
        width, height = size[::-1] if turns % 2 else size
        kind = (width, height, decoded.width, decoded.height, decoded.format.name)
        if kind != self._kind:
            self._kind, self._graph = kind, graph = kind, av.filter.Graph()
            # Waking other threads takes longer than scaling a small frame. PyAV 15 has no such setting.
            if hasattr(graph, "threads"):
                graph.threads = 1
            source = graph.add_buffer(None, *kind[2:], time_base=decoded.time_base or av.time_base)
            resize = graph.add("scale", f"{width}:{height}:flags=area+full_chroma_inp")
            # libswscale takes half as long for planar output as for packed output.
            planar = graph.add("format", "gbrp")
            graph.link_nodes(source, resize, planar, graph.add("buffersink")).configure()
        self._graph.push(decoded)
        green, blue, red = (
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
            for plane in self._graph.vpull().planes
        )
        image = cv2.merge([red, green, blue])
        return np.ascontiguousarray(np.rot90(image, turns) if turns else image, np.uint8)


def decode(path: str | Path) -> Iterator[Frame]:
    """All frames that can be decoded, in order of presentation; damaged packets are skipped and logged.

    Raises SkipRecord if there are none.
    """
    errors: list[str] = []
    index, first_pts, start, end, coded_size, size = -1, None, 0.0, 0.0, None, (0, 0)
    with open_video(path) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        # A damaged file may state one frame in a million years, and some files state no rate.
        default_seconds = 1 / (fps if fps * MAX_GAP_SECONDS >= 1 else 25.0)
        # Integers, because arithmetic with Fraction objects is slow.
        ticks, per_second = stream.time_base.as_integer_ratio() if stream.time_base else (0, 1)
        for index, decoded in enumerate(_frames(container, stream, errors)):
            pts, stated = decoded.pts, end
            if pts is not None and ticks:
                first_pts = pts if first_pts is None else first_pts
                stated = (pts - first_pts) * ticks / per_second
            # A frame with a missing or impossible timestamp starts when the previous frame ends.
            start = stated if start <= stated <= end + MAX_GAP_SECONDS else end
            length = (decoded.duration or 0) * ticks / per_second
            end = start + (length if 0 < length <= MAX_GAP_SECONDS else default_seconds)
            if (decoded.width, decoded.height) != coded_size:
                coded_size, size = (decoded.width, decoded.height), _shown_size(decoded, stream)
            yield Frame(index, start, end, size, decoded)
    if index < 0:
        raise SkipRecord("no frame decodes", errors[0] if errors else "the stream is empty")
    if errors:
        log.warning("%s: %d damaged packets skipped: %s", path, len(errors), errors[0])


def decode_at(
    path: str | Path, wanted: Mapping[int, tuple[int, int] | None]
) -> Iterator[tuple[int, tuple[int, int], av.VideoFrame]]:
    """The frames with these numbers, in order, each with its number and its size as players show it.

    `wanted` maps frame numbers to the timestamps, in the stream's time base, of the frame and of the key
    frame to seek to. If a frame has no timestamps or is not found there, it and all later ones are found by
    decoding the file from its start and counting. Raises SkipRecord as `decode` does, or "frame not found".
    """
    missing = dict(sorted(wanted.items()))
    for number, size, decoded in _seek(path, dict(missing)):
        del missing[number]
        yield number, size, decoded
    for frame in decode(path) if missing else ():
        if frame.index in missing:
            del missing[frame.index]
            yield frame.index, frame.size, frame.decoded
        if not missing:
            return
    if missing:
        raise SkipRecord("frame not found", f"{path} has no frame {min(missing)}")


def _seek(
    path: str | Path, wanted: dict[int, tuple[int, int] | None]
) -> Iterator[tuple[int, tuple[int, int], av.VideoFrame]]:
    """Stops at the first frame that is not found at its timestamp."""
    at: int | None = None
    frames: Iterator[av.VideoFrame] = iter(())
    wanted_pts = {stamps[0] for stamps in wanted.values() if stamps}
    with open_video(path) as (container, stream), contextlib.suppress(av.error.FFmpegError):
        for number, stamps in wanted.items():
            if stamps is None:
                return
            pts, key_pts = stamps
            # Within a group of pictures, decoding continues from the previous frame.
            if at is None or key_pts > at:
                container.seek(pts, stream=stream)
                frames = _frames(container, stream, [], wanted_pts)
                first = next(frames, None)
                # Decoding must start at a key frame that is not after the wanted frame.
                if first is None or not first.key_frame or first.pts is None or first.pts > pts:
                    return
                frames = itertools.chain([first], frames)
            decoded = next((one for one in frames if (one.pts or 0) >= pts), None)
            if decoded is None or decoded.pts != pts or decoded.is_corrupt:
                return
            at = pts
            yield number, _shown_size(decoded, stream), decoded


def fit_size(width: int, height: int, *, max_pixels: int) -> tuple[int, int]:
    """The largest size of about this ratio within `max_pixels`: not larger than the original, at least 1."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    # A long, thin frame stays at least one pixel wide and becomes shorter instead.
    fitted_height = max(1, int(height * scale))
    fitted_width = max(1, min(int(width * scale), max_pixels // fitted_height))
    return fitted_width, min(fitted_height, max_pixels // fitted_width)


@contextlib.contextmanager
def open_video(path: str | Path, **options: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its main video stream; `options` are passed to FFmpeg. Raises SkipRecord."""
    check_file(path)
    # A playlist named .mp4 must not access the network, and a file may be named `concat:x`. A video is not
    # rejected because its tags are not UTF-8.
    options["protocol_whitelist"] = "file"
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise SkipRecord("cannot be opened", str(error)) from None
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = ", ".join(other.type for other in container.streams) or "none"
            raise SkipRecord("no video stream", f"streams: {kinds}" + (", cover art" if stream else ""))
        if stream.codec_context is None:
            raise SkipRecord("no frame decodes", "there is no decoder for this codec")
        # With several threads, damaged frames decode differently each time. Other cores decode other videos.
        stream.codec_context.thread_count = 1
        yield container, stream


def _shown_size(decoded: av.VideoFrame, stream: Any) -> tuple[int, int]:
    width = max(1, round(decoded.width * float(stream.sample_aspect_ratio or 1)))
    return (decoded.height, width) if round(decoded.rotation / 90) % 2 else (width, decoded.height)


def _frames(
    container: Any, stream: Any, errors: list[str], wanted_pts: set[int] | None = None
) -> Iterator[av.VideoFrame]:
    """All frames, or those in `wanted_pts` and their references; errors of packets are added to `errors`."""
    packets = container.demux(stream)
    while True:
        try:
            # None at the end, and also after an error of the container.
            packet = next(packets, None)
            if packet is None:
                return
            if wanted_pts is not None:
                is_wanted = packet.pts is None or packet.pts in wanted_pts
                stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            yield from packet.decode()
        except IndexError:
            # PyAV raises this for a stream that starts in the middle of the file. The rest can be decoded.
            packets = container.demux(stream)
        except av.error.FFmpegError as error:
            errors.append(str(error))
