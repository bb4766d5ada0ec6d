"""Corrections of an ensemble's predictions: a temperature for its confidence, class offsets for macro-F1.

Both are fitted on out-of-fold predictions: of the rows that it was fitted on, an ensemble is too sure.
"""

from __future__ import annotations

import numpy as np

from ferbal import metrics
from ferbal.ensemble.estimate import out_of_fold
from ferbal.ensemble.members import Combined, Labels, LogProbabilities, Members, Method
from ferbal.offsets import best_offsets

COLDEST, HOTTEST = 0.05, 20.0


def temperature(log_probs: LogProbabilities, labels: Labels) -> float:
    """The T with the least log loss of softmax(log_probs / T) (Guo et al. 2017, arXiv:1706.04599).

    Logits are divided by T: above 1 for a model that is too sure of itself, below 1 for one that hesitates. No
    predicted class changes.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-metrics.log_softmax(log_probs / np.exp(log_t))[rows, labels].mean())

    found = minimize_scalar(
        loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-5}
    )
    return float(np.exp(found.x))


def tempered(method: Method) -> Method:
    """The method, followed by a temperature that is fitted on its out-of-fold predictions."""

    def fit(members: Members, labels: Labels) -> Combined:
        t = temperature(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said / t))

    return fit


def with_offsets(method: Method) -> Method:
    """The method, followed by class offsets that are fitted on its out-of-fold predictions."""

    def fit(members: Members, labels: Labels) -> Combined:
        moved = best_offsets(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said + moved))

    return fit
