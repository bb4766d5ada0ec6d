"""How bright the pixels of a data set are, of which no copy as floats is made: it would be eight times as large."""

from __future__ import annotations

from typing import Final

import numpy as np

from ferbal.shapes import Int, UInt8

AT_ONCE: Final = 1 << 20  # pixels, which are counted as eight bytes each


def histogram(images: UInt8[np.ndarray, "n c h w"]) -> Int[np.ndarray, " 256"]:
    """How often each value occurs, of all channels together."""
    values = images.reshape(-1)
    parts = (values[first : first + AT_ONCE] for first in range(0, len(values), AT_ONCE))
    return np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)


def moments(counts: Int[np.ndarray, " 256"]) -> tuple[float, float]:
    """Mean and standard deviation of pixels that are counted by value, on a scale from 0 to 1."""
    values = np.arange(256)
    mean = (counts * values).sum() / counts.sum()
    deviation = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
    return float(mean) / 255, float(deviation) / 255
