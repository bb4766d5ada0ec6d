"""Likely label errors, by confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70, arXiv:1911.00068)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferbal.errors import DataError
from ferbal.shapes import Float, Int


@dataclass(frozen=True, eq=False)
class Doubts:
    """Rows whose label is likely wrong, the most doubtful first.

    suggested: the class the model is confident of. margin: p of the label minus the largest other p, -1..1, rising.
    """

    rows: Int[np.ndarray, " d"]
    suggested: Int[np.ndarray, " d"]
    margin: Float[np.ndarray, " d"]

    def __len__(self) -> int:
        return len(self.rows)


def label_doubts(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Doubts:
    """The rows of which the model is confident that they are of another class than their label.

    probabilities: 0..1, out of sample, that is from models that did not train on the row: one that did has learnt the
    wrong labels by heart. A model is confident of class j in a row if its p_j reaches the mean p_j of the rows
    labelled j, and of the likeliest such class where there are several. A class without rows, and one the model was
    not taught (p is 0 everywhere), is never suggested; rows labelled with the latter are not judged.

    Raises DataError for probabilities or labels that cannot be.
    """
    _check(probabilities, labels)
    n, k = probabilities.shape
    own = probabilities[np.arange(n), labels].astype(np.float64)
    count = np.bincount(labels, minlength=k)
    known = (count > 0) & probabilities.any(0)
    mean = np.bincount(labels, weights=own, minlength=k) / np.maximum(count, 1)
    # the mean of equal numbers may come out a little above each of them, and would then convince nobody
    threshold = np.where(known, mean * (1 - 1e-9), np.inf)
    reached = np.where((probabilities >= threshold) & (probabilities > 0), probabilities, 0)
    confident = reached.argmax(1)
    judged = reached.any(1) & known[labels]
    others = probabilities.copy()
    others[np.arange(n), labels] = -1
    margin = own - others.max(1)
    rows = np.flatnonzero(judged & (confident != labels))
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return Doubts(rows, confident[rows], margin[rows])


def _check(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> None:
    k = probabilities.shape[1]
    if k < 2:
        raise DataError(f"label doubts: {k} class; a label can only be wrong where there are two or more")
    wrong = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)).all(1))
    if len(wrong):
        raise DataError(
            f"label doubts: row {wrong[0]} has probabilities {probabilities[wrong[0]].tolist()}; each is in 0..1. "
            "Give the softmax of the logits"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= k))
    if len(wrong):
        raise DataError(f"label doubts: row {wrong[0]} has label {labels[wrong[0]]}; known are 0..{k - 1}")
