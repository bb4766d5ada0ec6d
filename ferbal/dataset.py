"""Labelled images in three splits, as everything else sees them wherever they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from annotated_types import Gt

from ferbal.shapes import Float, Int, UInt8

FER2013: Final = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes of FER2013, in the order of its labels."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, which may be memory-mapped. Rows of one group show the same picture.

    ids: str [N], the row's name in its source: unique within the data set.
    votes: the soft target of each row, over the data set's classes, where people voted and training should know it.
    """

    images: UInt8[np.ndarray, "n c h w"]
    labels: Int[np.ndarray, " n"]
    ids: np.ndarray
    group: Int[np.ndarray, " n"]
    votes: Float[np.ndarray, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits over the same classes. `digest` changes with any pixel, label, split or order of rows.

    unlabelled: rows that can be predicted but not scored; their labels are -1.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    digest: str
    mean: float = 0.5
    std: Annotated[float, Gt(0)] = 0.25
    unlabelled: Split | None = None
