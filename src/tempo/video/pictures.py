"""What is measured on one picture, RGB, uint8 [H, W, 3]. H height, W width, D descriptor size (128)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo.video.decoding import Image


def measure_sharpness(image: Image) -> float:
    """Mean absolute Laplacian (3x3) of the grey image after a 3x3 Gaussian blur; RGB uint8 [H, W, 3] in."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    laplacian: NDArray[np.int16] = cv2.Laplacian(grey, cv2.CV_16S, ksize=3)
    # The same mean as by numpy, in a fifth of the time.
    return float(cv2.norm(laplacian, cv2.NORM_L1)) / laplacian.size


def describe(image: Image) -> NDArray[np.float64]:
    """What place a picture shows, [D], of length 1: half colour, half layout.

    Colour: square root of a joint 4x4x4 RGB histogram, whose dot product is the Bhattacharyya coefficient.
    Layout: 8x8 brightness less its mean. A picture of one brightness has no layout and is all colour.
    """
    levels = (image >> 6).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    colour = np.sqrt(np.bincount(levels, minlength=64) / len(levels))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    layout = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    layout -= layout.mean()
    length = np.linalg.norm(layout)
    # Under one grey level it is the noise of the codec.
    layout = layout / length if length / 8 >= 1 else np.zeros_like(layout)
    both = np.concatenate([colour, layout])
    return np.asarray(both / np.linalg.norm(both), np.float64)


def measure_grey_range(image: Image) -> int:
    """Brightest less darkest grey level, 0 to 255."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return int(grey.max()) - int(grey.min())
