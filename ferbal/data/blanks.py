"""Images without a picture in them."""

from __future__ import annotations

import numpy as np

from ferbal.shapes import Float, Float32, UInt8

BLANK = 0.0
"""Contrast of an image whose pixels are all equal. FER2013 has 12."""

NEARLY_BLANK = 5.0
"""Below this contrast nothing can be told apart. In FER2013 two more images fall under it (a gray sheet of 0.6 and a
dark one of 4.1); the dimmest face in which an expression can be seen has 9.1, the next 11.7."""

ROWS_AT_ONCE = 1024


def contrast(images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, " n"]:
    """Standard deviation of each image's gray values, 0..127.5. Reads a memory map a batch at a time."""
    parts = [
        gray(images[first : first + ROWS_AT_ONCE]).std((1, 2), dtype=np.float64)
        for first in range(0, len(images), ROWS_AT_ONCE)
    ]
    return np.concatenate([np.empty(0), *parts])


def gray(images: UInt8[np.ndarray, "n c h w"]) -> Float32[np.ndarray, "n h w"]:
    """The mean of the channels, 0..255."""
    return images.mean(1, dtype=np.float32)
