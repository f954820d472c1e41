"""Pictures of the page: clips as images that CSS can play, and training curves."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

#: Points of a curve; a phase of more steps is thinned out, so that the page stays small.
NUM_POINTS = 500

#: Height of an image on the page, in pixels.
IMAGE_HEIGHT = 88


@dataclass(frozen=True)
class Film:
    """Frames side by side in one image, as the `src` of an <img>; each is `width` x `height` pixels."""

    source: str
    width: int
    height: int
    num_frames: int


def film(frames: Sequence[NDArray[np.uint8]]) -> Film:
    """One or more frames uint8 [H, W, 3], of any size, as a Film."""
    ratio = np.clip(frames[0].shape[1] / frames[0].shape[0], 0.25, 4)
    size = (round(IMAGE_HEIGHT * ratio), IMAGE_HEIGHT)
    sheet = np.hstack([np.asarray(ImageOps.fit(Image.fromarray(frame), size)) for frame in frames])
    data = io.BytesIO()
    Image.fromarray(sheet).save(data, "WEBP", quality=70)
    source = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    return Film(source, *size, len(frames))


def draw_curves(phases: Mapping[str, Sequence[Mapping[str, float]]], keys: Sequence[str]) -> str:
    """The metrics `keys` of all phases, one after another, as SVG in the colours of the page around it."""
    import matplotlib
    from matplotlib.figure import Figure

    # A fixed salt and no date, so that the same run always gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "tempo", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5, 2 * len(keys) + 0.6), layout="constrained", facecolor="none")
        for axes, key in zip(figure.subplots(len(keys), sharex=True), keys, strict=True):
            num_steps = 0.0
            for name, rows in phases.items():
                shown = rows[:: len(rows) // NUM_POINTS + 1]
                steps = [num_steps + row["step"] for row in shown]
                # Without values, the phase still has its color.
                axes.plot(steps, [row.get(key, np.nan) for row in shown], marker=".", label=name)
                num_steps += rows[-1]["step"]
            axes.set(title=key, facecolor="none")
            axes.grid(alpha=0.3)
        axes.set_xlabel("step")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        data = io.StringIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    svg = data.getvalue()[data.getvalue().index("<svg") :].replace("#000000", "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{" and ".join(keys)} by step" ', 1)
