"""Does the memory of the stage `shots` grow with the length of a video? Measured at 4K.

    python benchmarks/memory.py [--seconds 10,30,60] [--fps 25] [--detector content]

It prints the peak for each length. The video is rendered: blocks move over a flat background at 3840x2160, in
H.264 with as many reference frames as its level allows; ten seconds of packets are repeated. It has no cut,
which is the worst case, because thumbnails of an open shot are kept until it ends. Fewer frames per second
(`--fps 2`) decode faster.

Each length runs in its own process. The peak is the largest resident size during the stage, above that of the
idle process with everything imported.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import harness
import numpy as np

from tempo.config import Config
from tempo.core.records import Shots, Video
from tempo.engine.types import Context
from tempo.video import shots
from tempo.video.find import video_id

WIDTH, HEIGHT = 3840, 2160
LOOP_SECONDS = 10

#: The most reference frames of H.264 level 5.1 at this size; a decoder keeps them, 12 MB each.
NUM_REFERENCES = 5


def draw(num_frames: int) -> Iterator[av.VideoFrame]:
    """Frames in which four blocks move round once; drawn as 4:2:0, because conversion takes longest."""
    for index in range(num_frames):
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        for block in range(4):
            x = (index * WIDTH // num_frames + block * 900) % (WIDTH - 600)
            planes[200 + 450 * block : 600 + 450 * block, x : x + 600] = 30 + 60 * block
        yield av.VideoFrame.from_ndarray(planes, format="yuv420p")


def render(path: Path, fps: int) -> None:
    """LOOP_SECONDS of video with a single key frame."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "x264-params": f"ref={NUM_REFERENCES}:keyint=9999", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in draw(LOOP_SECONDS * fps):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def repeat(loop: Path, path: Path, seconds: int) -> None:
    """Repeats the packets of `loop`; nothing is encoded."""
    with av.open(str(loop)) as source, av.open(str(path), "w") as target:
        (read,) = source.streams.video
        written = target.add_stream_from_template(read)
        packets = [packet for packet in source.demux(read) if packet.size]
        data = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        step = round(LOOP_SECONDS / read.time_base)
        for number in range(seconds // LOOP_SECONDS):
            for content, pts, dts, is_keyframe in data:
                packet = av.Packet(content)
                packet.stream, packet.time_base = written, Fraction(read.time_base)
                packet.pts, packet.dts, packet.is_keyframe = (
                    pts + number * step,
                    dts + number * step,
                    is_keyframe,
                )
                target.mux(packet)


def measure(path: str, detector: str) -> tuple[int, float, float, float]:
    """Frames, seconds of video, seconds of work and the peak in megabytes of one pass."""
    with tempfile.TemporaryDirectory() as directory:
        config = Config.model_validate({"videos": {"paths": [path]}, "shots": {"detector": detector}})
        find = shots.make_worker(Context(config, Path(directory)))
        values = {"duration_seconds": 1.0, "width": WIDTH, "height": HEIGHT, "fps": 25.0, "codec": "h264"}
        video = Video(id=video_id(path), path=path, **values)
        before, start = harness.forget_peak(), time.perf_counter()
        (row,) = find([video])
        took = time.perf_counter() - start
        assert isinstance(row, Shots), row
        return row.num_frames, row.duration_seconds, took, harness.peak_megabytes() - before


def main() -> None:
    """Prints the table, and how much the peak grows from each length to the next."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--seconds", default="10,30,60", help="lengths, tens of seconds")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--detector", default="content")
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    seen: list[tuple[float, float]] = []
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        loop, path = Path(folder) / "loop.mp4", Path(folder) / "video.mp4"
        render(loop, arguments.fps)
        for seconds in map(int, arguments.seconds.split(",")):
            repeat(loop, path, seconds)
            measured = harness.in_fresh_process(measure, str(path), arguments.detector)
            num_frames, length, took, megabytes = measured
            seen.append((length, megabytes))
            lines.append([f"{length:.0f}", str(num_frames), f"{took:.0f}", f"{megabytes:.0f}"])
    print(harness.table(["seconds of video", "frames", "seconds of work", "peak, MB"], lines))
    for (shorter, low), (longer, high) in itertools.pairwise(seen):
        slope = (high - low) / (longer - shorter) * 60
        print(f"{shorter:.0f} to {longer:.0f} s: {slope:+.2f} MB a minute")


if __name__ == "__main__":
    main()
