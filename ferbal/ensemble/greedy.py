"""Ensemble selection with replacement (Caruana et al. 2004), without building any ensemble twice.

Only rows whose winner some member could still change are looked at. With every step they get fewer: the sum of what
the chosen members say grows, what one more member can add does not. The selection is that of the plain algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ferbal import metrics
from ferbal.ensemble.members import Combined, Labels, Members, mixture
from ferbal.errors import UsageError, nearest
from ferbal.shapes import Bool, Float, Int

Metric = Literal["macro_f1", "balanced_accuracy", "accuracy", "log_loss"]
STEPS = 50
CHUNK = 256  # rows at a time, so that what is computed stays in the processor's cache
TIE = 1e-12  # scores nearer than this are equal but for rounding


@dataclass(frozen=True, eq=False)
class Selection:
    """Members in the order they were taken, and the score on blend after each. best: the length to keep."""

    taken: Int[np.ndarray, " s"]
    scores: Float[np.ndarray, " s"]
    best: int


def greedy(members: Members, labels: Labels, metric: Metric = "macro_f1", steps: int = STEPS) -> Combined:
    """Add the member, again and again, that helps the metric on blend most (Caruana et al. 2004).

    Members may be taken more than once; the shortest best prefix is kept. Log loss breaks ties, also between
    prefixes. metric: macro_f1, balanced_accuracy, accuracy, or log_loss, which is made small.
    """
    return mixture(_weights(greedy_path(members, labels, metric, steps), len(members)))


def bagged(
    members: Members,
    labels: Labels,
    metric: Metric = "macro_f1",
    steps: int = STEPS,
    *,
    bags: int = 10,
    share: float = 0.5,
    seed: int = 0,
) -> Combined:
    """The mean of greedy selections, each among a random `share` of the members (Caruana et al. 2004, section 2.3).

    With many members and few rows a selection fits the rows; no single member can do so in every bag.
    """
    draw = np.random.default_rng(seed)
    size = max(1, round(share * len(members)))
    total = np.zeros(len(members))
    for _ in range(bags):
        some = np.sort(draw.choice(len(members), size, replace=False))
        total[some] += _weights(greedy_path(members[some], labels, metric, steps), size)
    return mixture(total / bags)


def greedy_path(members: Members, labels: Labels, metric: Metric = "macro_f1", steps: int = STEPS) -> Selection:
    """The members that greedy selection takes, one after another."""
    if metric not in get_args(Metric):
        raise UsageError(
            f"greedy: no metric {metric!r}{nearest(metric, get_args(Metric))}; it knows {', '.join(get_args(Metric))}"
        )
    votes = _Votes(members, labels)
    taken: list[int] = []
    scores: list[float] = []
    best, best_length = (-np.inf, -np.inf), 0
    for length in range(1, steps + 1):
        if metric == "log_loss":
            likelihood = votes.log_likelihoods(np.arange(len(members)))
            choice = int(likelihood.argmax())
            worth = (float(likelihood[choice]),) * 2
        else:
            found = _scores(votes.confusions(), metric)
            tied = np.flatnonzero(found >= found.max() - TIE)
            likelihood = votes.log_likelihoods(tied)
            choice = int(tied[likelihood.argmax()])
            worth = float(found[choice]), float(likelihood.max())
        votes.take(choice)
        taken.append(choice)
        scores.append(-worth[0] if metric == "log_loss" else worth[0])
        if worth[0] > best[0] + TIE or (worth[0] > best[0] - TIE and worth[1] > best[1] + TIE):
            best, best_length = worth, length
    return Selection(np.array(taken), np.array(scores), best_length)


class _Votes:
    """The sum of the probabilities of those taken so far, and what each member would make of it."""

    def __init__(self, members: Members, labels: Labels) -> None:
        self.labels, self.classes = labels.astype(np.int64), members.shape[2]
        # Members last: what is done for all of them at once lies side by side.
        self.said = np.empty((members.shape[1], self.classes, len(members)))
        np.exp(members.transpose(1, 2, 0), out=self.said)
        self.total = np.zeros(members.shape[1:])
        self.length = 0
        self.sway = self._sway()
        """How much nearer the most decided member brings any class to this winner, by row and winner."""

    def take(self, member: int) -> None:
        self.total += self.said[:, :, member]
        self.length += 1

    def confusions(self) -> Int[np.ndarray, "m k k"]:
        """The confusion matrix on blend with each member added."""
        k, m = self.classes, self.said.shape[2]
        open_rows = self._open()
        settled = ~open_rows
        cells = self.labels[settled] * k + self.total[settled].argmax(1)
        counts = np.tile(np.bincount(cells, minlength=k * k), m)
        offset = np.arange(m) * k * k
        for rows in _chunks(np.flatnonzero(open_rows)):
            cells = offset + self.labels[rows, None] * k + self._winners(rows)
            counts += np.bincount(cells.ravel(), minlength=len(counts))
        return counts.reshape(m, k, k)

    def log_likelihoods(self, of: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        """Mean log-probability of the truth with each of these members added."""
        found = np.zeros(len(of))
        for rows in _chunks(np.arange(len(self.labels))):
            of_truth = self.said[rows[:, None], self.labels[rows, None], of[None, :]]
            found += np.log(self.total[rows, self.labels[rows]][:, None] + of_truth).sum(0)
        return found / len(self.labels) - np.log(self.length + 1)

    def _open(self) -> Bool[np.ndarray, " n"]:
        """Rows on which some member could change the winner."""
        if not self.length:
            return np.ones(len(self.labels), dtype=bool)
        ordered = np.sort(self.total, axis=1)
        winner = self.total.argmax(1)
        margin = ordered[:, -1] - ordered[:, -2] if self.classes > 1 else np.full(len(winner), np.inf)
        return margin <= self.sway[np.arange(len(winner)), winner] + 1e-9

    def _winners(self, rows: Int[np.ndarray, " r"]) -> Int[np.ndarray, "r m"]:
        """The class with the most votes with each member added; of equal ones the first."""
        said, total = self.said[rows], self.total[rows]
        best = said[:, 0] + total[:, :1]
        winner = np.zeros(best.shape, dtype=np.int64)
        for k in range(1, self.classes):
            votes = said[:, k] + total[:, k : k + 1]
            winner[votes > best] = k
            np.maximum(best, votes, out=best)
        return winner

    def _sway(self) -> Float[np.ndarray, "n k"]:
        sway = np.empty(self.said.shape[:2])
        for rows in _chunks(np.arange(len(self.labels))):
            said = self.said[rows]
            top = said.max(1)
            for k in range(self.classes):
                sway[rows, k] = (top - said[:, k]).max(1)
        return sway


def _scores(counts: Int[np.ndarray, "m k k"], metric: Metric) -> Float[np.ndarray, " m"]:
    """A metric of every matrix."""
    if metric == "accuracy":
        return counts.trace(axis1=1, axis2=2) / counts.sum((1, 2))
    return metrics.class_mean(metrics.recall(counts) if metric == "balanced_accuracy" else metrics.f1(counts))


def _weights(path: Selection, members: int) -> Float[np.ndarray, " m"]:
    return np.bincount(path.taken[: path.best], minlength=members) / path.best


def _chunks(rows: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " c"]]:
    return [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
