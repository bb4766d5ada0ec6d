"""What to add to each class's logit for the best macro-F1: a threshold for each class."""

from __future__ import annotations

import numpy as np

from ferbal.shapes import Float, Int

FARTHEST = 3.0  # offset of a class, in nats
GRID = np.linspace(-FARTHEST, FARTHEST, 121)
WIDTH = 0.2  # nats over which macro-F1 is evened out before its top is sought
PULL = 0.005  # of macro-F1, lost by an offset of one nat
BAGS = 20
PASSES = 10

Scores = Float[np.ndarray, "n k"]
Labels = Int[np.ndarray, " n"]


def best_offsets(scores: Scores, labels: Labels) -> Float[np.ndarray, " k"]:
    """What to add to each class's logit or log-probability for the best macro-F1, fitted jointly; nats, mean 0.

    One class after another, as thresholds are tuned (Lipton et al. 2014, arXiv:1402.1892), until none moves. Three
    things keep a few rows of a rare class from deciding: macro-F1 is evened out over nearby offsets, which makes a
    plateau worth more than a spike; offsets cost a little; and the answer is the mean over bootstrap samples of the
    rows (Breiman 1996), which matters most.
    """
    draw = np.random.default_rng(0)
    found = np.zeros(scores.shape[1])
    for _ in range(BAGS):
        counts = np.bincount(draw.integers(len(labels), size=len(labels)), minlength=len(labels))
        found += _climb(scores, labels, counts.astype(float)) / BAGS
    return found - found.mean()


def _climb(scores: Scores, labels: Labels, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Coordinate ascent: offsets on the grid, until changing a single one no longer helps."""
    moved = np.zeros(scores.shape[1])
    near = np.exp(-((GRID - GRID[len(GRID) // 2]) ** 2) / (2 * WIDTH**2))
    mass = np.convolve(np.ones(len(GRID)), near, mode="same")
    for _ in range(PASSES):
        before = moved.copy()
        for k in range(len(moved)):
            along = _macro_f1_along(scores + moved, k, labels, weights, moved[k])
            smooth = np.convolve(along, near, mode="same") / mass - PULL * GRID**2
            moved[k] = GRID[int(smooth.argmax())]
        if np.array_equal(moved, before):
            break
    return moved


def _macro_f1_along(
    said: Scores, k: int, labels: Labels, weights: Float[np.ndarray, " n"], now: float
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
