"""What probabilities are worth, class by class: precision against recall, and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ferbal.shapes import Float, Int

RECALLS: Final = np.round(np.arange(41) / 40, 3)
"""The recalls at which precision is read off."""
BINS: Final = 10
"""Bins of probability, all equally wide."""


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """precision [41] at `RECALLS`, and the average precision; both NaN where the class has no rows."""

    precision: Float[np.ndarray, " r"]
    average: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """By bin of the probability given to a class: rows, their mean probability, and the share that is of it."""

    rows: Int[np.ndarray, " b"]
    said: Float[np.ndarray, " b"]
    true: Float[np.ndarray, " b"]


def precision_recall(given: Float[np.ndarray, " n"], belongs: Int[np.ndarray, " n"]) -> PrecisionRecall:
    """How well the probabilities given to one class put its rows first. belongs: 1 for a row of the class, else 0.

    Precision at a recall is that at the highest threshold which reaches it, not interpolated (Davis and Goadrich,
    2006); rows of equal probability are taken together. The average weighs precision by the recall gained.
    """
    rows = int(belongs.sum())
    if rows == 0:
        return PrecisionRecall(np.full(len(RECALLS), np.nan), float("nan"))
    order = np.argsort(-given, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(given[order]), -1.0))
    hits = belongs[order].cumsum()[ends]
    precision, recall = hits / (ends + 1), hits / rows
    at = np.searchsorted(hits, np.ceil(RECALLS * rows - 1e-9), side="left")
    return PrecisionRecall(precision[at], float((np.diff(recall, prepend=0.0) * precision).sum()))


def calibration(given: Float[np.ndarray, " n"], belongs: Int[np.ndarray, " n"]) -> Calibration:
    """Whether the probabilities given to one class come true. NaN in a bin without rows."""
    slot = np.minimum((given * BINS).astype(int), BINS - 1)
    rows = np.bincount(slot, minlength=BINS)
    said, true = (np.bincount(slot, weights=weights, minlength=BINS) for weights in (given, belongs))
    with np.errstate(invalid="ignore"):
        return Calibration(rows, said / rows, true / rows)
