"""The smallest video that decodes."""

import av
import numpy as np


def film(path, level=60, *, count=8, rate=8):
    """A tiny video that gets brighter; another grey level is another content."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            picture = np.full((64, 64, 3), level + index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
