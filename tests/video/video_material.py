"""Frames with known content, records of stages, and ways to change a file."""

from __future__ import annotations

import struct

import av
import numpy as np
from sample_material import context_of

from tempo.video import find

WIDTH, HEIGHT = 96, 64

#: Names of files, and their codecs.
CONTAINERS = (
    *(("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.ts", "libx264")),
    *(("d.avi", "mpeg4"), ("e.webm", "libvpx")),
)


def plain(*, colour=(90, 90, 90), width=WIDTH, height=HEIGHT):
    """A frame of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def place(seed, *, width=WIDTH, height=HEIGHT):
    """A frame of blocks in random colours: another seed is another place."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((height // 4, width // 6, 1), np.uint8))


def numbered(index):
    """A frame whose grey level encodes its number, five levels apart."""
    return plain(colour=(20 + 5 * index,) * 3)


def number_of(image):
    """The number of a frame made by `numbered`."""
    return round((float(image.mean()) - 20) / 5)


def moving(seed, num_frames):
    """A shot: frames of one place in which a white square moves."""
    frames = [place(seed).copy() for _ in range(num_frames)]
    for index, frame in enumerate(frames):
        frame[10:18, 2 + index % 80 : 10 + index % 80] = 255
    return frames


def video_of(path, directory):
    """The first stage's record of a file."""
    return find.make_worker(context_of(directory))([find.VideoFile(id=str(path))])[0]


def rotate(path, quarter_turns):
    """Sets the display matrix of an MP4, so that players rotate the video counterclockwise."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns]
    # 16.16 fixed point, clockwise for positive b; the last number is 2.30.
    matrix = struct.pack(">9i", *(v << 16 for v in (cos, -sin, 0, sin, cos, 0, 0, 0)), 1 << 30)
    data = bytearray(path.read_bytes())
    # In `tkhd` version 0 the matrix follows 4 bytes of type, 36 of other fields.
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == struct.pack(">i", 1 << 16), "not the matrix"
    data[at : at + 36] = matrix
    path.write_bytes(data)


def spoil_packet(path, number):
    """Overwrites the packet of this number, in order of decoding, so that it cannot be decoded."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
