"""Means of what the members say, plain or weighted."""

from __future__ import annotations

import numpy as np

from ferbal import metrics
from ferbal.ensemble.members import Combined, Labels, LogProbabilities, Members, mixture

ROUNDS, STILL = 1000, 1e-8


def average(members: Members, labels: Labels) -> Combined:
    """The mean of all members' probabilities (a linear opinion pool, Stone 1961). Nothing is fitted."""
    return mixture(np.full(len(members), 1 / len(members)))


def average_logits(members: Members, labels: Labels) -> Combined:
    """The mean of all members' log-probabilities, made to sum to 1: a logarithmic opinion pool. Nothing is fitted.

    Genest and Zidek 1986. A member that is sure against a class, as one on the floor is against those that it does
    not know, has a near veto: fill in what such members lack (`members_of`).
    """

    def apply(some: Members) -> LogProbabilities:
        return metrics.log_softmax(some.mean(0))

    return Combined(apply, np.full(len(members), 1 / len(members)))


def weighted(members: Members, labels: Labels) -> Combined:
    """The convex mixture of probabilities with the least log loss on blend.

    Found by expectation-maximisation (Dempster et al. 1977), which keeps the weights positive and summing to 1 and
    cannot get worse.
    """
    of_truth = np.exp(members[:, np.arange(len(labels)), labels])
    weights = np.full(len(members), 1 / len(members))
    for _ in range(ROUNDS):
        updated = weights * (of_truth @ (1 / (weights @ of_truth))) / len(labels)
        if np.abs(updated - weights).max() < STILL:
            break
        weights = updated
    return mixture(weights / weights.sum())
