"""Rows that are taken for another class: the most confident of the most confused pairs of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferbal.shapes import Float, Int


@dataclass(frozen=True)
class Mistake:
    """A row that is taken for another class. confidence: the probability of that class, 0..1."""

    row: int
    true: int
    predicted: int
    confidence: float


def confident_mistakes(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], pairs: int = 8, each: int = 8
) -> list[Mistake]:
    """The most confident mistakes of the most confused pairs of classes, the most confused pair first."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    cells = labels[wrong] * probabilities.shape[1] + predicted[wrong]
    kinds, counts = np.unique(cells, return_counts=True)
    found = []
    for cell in kinds[np.argsort(-counts, kind="stable")][:pairs]:
        own = wrong[cells == cell]
        for row in own[np.argsort(-confidence[own], kind="stable")][:each]:
            found.append(Mistake(int(row), int(labels[row]), int(predicted[row]), float(confidence[row])))
    return found
