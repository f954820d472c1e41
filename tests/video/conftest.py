"""Small files with known content, made when a test needs them."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest


@pytest.fixture
def render(tmp_path):
    """A function that writes images as a video and returns its path."""

    def write(images, name="video.mp4", *, fps=25, pts=None, codec="libx264", gop=12, aspect=None):
        path = tmp_path / name
        height, width = images[0].shape[:2]
        with av.open(str(path), "w") as container:
            options = {"crf": "12"} if codec == "libx264" else {}
            stream = container.add_stream(codec, rate=fps, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size = gop
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            stream.codec_context.time_base = Fraction(1, 1000) if pts else Fraction(1, fps)
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = pts[index] if pts else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def silence(tmp_path):
    """A file with an audio stream only."""
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for index in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, index * 1024, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
