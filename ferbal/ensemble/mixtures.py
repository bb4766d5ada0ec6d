"""Means of the members' predictions, plain or weighted, and their vote."""

from __future__ import annotations

import numpy as np

from ferbal import metrics
from ferbal.ensemble.members import Combined, Labels, LogProbabilities, Members, mixture

ROUNDS, STILL = 1000, 1e-8
TIE = 0.5  # of a vote, which the mean of probabilities has: less than what sets two classes apart, if anything does


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


def vote(members: Members, labels: Labels) -> Combined:
    """One vote a member, for the class that it predicts; their mean probability breaks ties. Nothing is fitted.

    (v_k + TIE mean_m p_mk) / (M + TIE), v_k the votes for class k. How sure a member is counts for little,
    which helps where members are calibrated badly or each in its own way.
    """

    def apply(some: Members) -> LogProbabilities:
        votes = (some.argmax(2)[:, :, None] == np.arange(some.shape[2])).sum(0)
        return np.log((votes + TIE * np.exp(some).mean(0)) / (len(some) + TIE))

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
