"""Corrections of what an ensemble says: a temperature for its confidence, offsets of the classes for macro-F1.

Both are fitted on what the ensemble says of rows that it was not fitted on: what it says of its own rows is too sure.
"""

from __future__ import annotations

import numpy as np

from ferbal import metrics
from ferbal.ensemble.estimate import out_of_fold
from ferbal.ensemble.members import Combined, Labels, LogProbabilities, Members, Method
from ferbal.shapes import Float, Int

COLDEST, HOTTEST = 0.05, 20.0
FARTHEST = 3.0  # offset of a class, in nats
GRID = np.linspace(-FARTHEST, FARTHEST, 121)
WIDTH = 0.2  # nats over which macro-F1 is evened out before its top is sought
PULL = 0.005  # of macro-F1, lost by an offset of one nat
BAGS = 20
PASSES = 10


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


def offsets(log_probs: LogProbabilities, labels: Labels, seed: int = 0) -> Float[np.ndarray, " k"]:
    """What to add to each class's log-probability for the best macro-F1, fitted jointly; in nats, with mean 0.

    One class after another, as thresholds are tuned (Lipton et al. 2014, arXiv:1402.1892), until none moves. Three
    things keep a few rows of a rare class from deciding: macro-F1 is evened out over nearby offsets, which makes a
    plateau worth more than a spike; offsets cost a little; and the answer is the mean over bootstrap samples of the
    rows (Breiman 1996), which matters most.
    """
    draw = np.random.default_rng(seed)
    found = np.zeros(log_probs.shape[1])
    for _ in range(BAGS):
        counts = np.bincount(draw.integers(len(labels), size=len(labels)), minlength=len(labels))
        found += _climb(log_probs, labels, counts.astype(float)) / BAGS
    return found - found.mean()


def tempered(method: Method) -> Method:
    """The method, whose answers are then divided by the temperature that suits its answers out of fold."""

    def fit(members: Members, labels: Labels) -> Combined:
        t = temperature(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said / t))

    return fit


def with_offsets(method: Method) -> Method:
    """The method, to whose answers the offsets are then added that suit its answers out of fold."""

    def fit(members: Members, labels: Labels) -> Combined:
        moved = offsets(out_of_fold(method, members, labels), labels)
        return method(members, labels).then(lambda said: metrics.log_softmax(said + moved))

    return fit


def _climb(log_probs: LogProbabilities, labels: Labels, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Offsets on the grid that no change of a single one betters."""
    moved = np.zeros(log_probs.shape[1])
    near = np.exp(-((GRID - GRID[len(GRID) // 2]) ** 2) / (2 * WIDTH**2))
    mass = np.convolve(np.ones(len(GRID)), near, mode="same")
    for _ in range(PASSES):
        before = moved.copy()
        for k in range(len(moved)):
            scores = _macro_f1_along(log_probs + moved, k, labels, weights, moved[k])
            smooth = np.convolve(scores, near, mode="same") / mass - PULL * GRID**2
            moved[k] = GRID[int(smooth.argmax())]
        if np.array_equal(moved, before):
            break
    return moved


def _macro_f1_along(
    said: LogProbabilities, k: int, labels: Labels, weights: Float[np.ndarray, " n"], now: float
) -> Float[np.ndarray, " g"]:
    """Macro-F1 with the offset of class k, which is `now`, at each value of the grid."""
    classes = said.shape[1]
    others = said.copy()
    others[:, k] = -np.inf
    rival = others.argmax(1)
    # Where on the grid the row begins to go to k; len(GRID) where it never does.
    turn = np.searchsorted(GRID, others.max(1) - said[:, k] + now, side="right")
    lost = _cumulated(turn, rival, weights, classes)
    lost_right = _cumulated(turn, rival, weights * (rival == labels), classes)
    gained_right = _cumulated(turn, np.zeros_like(rival), weights * (labels == k), 1)
    predicted = np.bincount(rival, weights, classes) - lost
    right = np.bincount(rival, weights * (rival == labels), classes) - lost_right
    predicted[:, k], right[:, k] = lost.sum(1), gained_right[:, 0]
    base = predicted + np.bincount(labels, weights, classes)
    each = np.divide(2 * right, base, out=np.zeros(base.shape), where=base > 0)
    return each.sum(1) / np.maximum((base > 0).sum(1), 1)


def _cumulated(
    turn: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], columns: int
) -> Float[np.ndarray, "g c"]:
    """How much weight has turned by each value of the grid, by column."""
    height = len(GRID) + 1
    counts = np.bincount(turn * columns + column, weights, height * columns).reshape(height, columns)
    return counts.cumsum(0)[:-1]
