"""Corrections of what an ensemble says: a temperature for its confidence, offsets of the classes for macro-F1.

Both are fitted on what the ensemble says of rows that it was not fitted on: what it says of its own rows is too sure.
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
    """The method, whose answers are then divided by the temperature that suits its answers out of fold."""

    def fit(members: Members, labels: Labels) -> Combined:
        t = temperature(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said / t))

    return fit


def with_offsets(method: Method) -> Method:
    """The method, to whose answers the offsets are then added that suit its answers out of fold."""

    def fit(members: Members, labels: Labels) -> Combined:
        moved = best_offsets(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said + moved))

    return fit
