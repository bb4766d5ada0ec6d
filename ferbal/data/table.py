"""What every reader returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Table:
    """A data set in memory, in the order of its source.

    split: str [N], each one of SPLITS. id: str [N], unique. reader, source, version: where it came from.
    """

    images: UInt8[np.ndarray, "n c h w"]
    label: Int[np.ndarray, " n"]
    split: np.ndarray
    id: np.ndarray
    classes: tuple[str, ...]
    reader: str
    source: str
    version: str = ""
