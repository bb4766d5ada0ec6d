"""How much members differ, and what each one more adds.

n11, n10, n01 and n00 count the rows that both members of a pair, the first alone, the second alone, and neither
predict right. The measures follow Kuncheva and Whitaker 2003 ("Measures of diversity in classifier ensembles",
Machine Learning 51) unless noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ferbal import metrics
from ferbal.ensemble.members import Labels, Members
from ferbal.shapes import Float, Int


@dataclass(frozen=True, eq=False)
class Diversity:
    """Pairs of members [M, M], symmetric; and the oracle of each class [K].

    disagreement   share of rows on which the two predict different classes (Fort et al. 2019, arXiv:1912.02757), 0..1
    correlation    of the errors: (n11 n00 - n10 n01) / sqrt((n11 + n10)(n01 + n00)(n11 + n01)(n10 + n00)), -1..1
    q              Yule's Q (1900): (n11 n00 - n10 n01) / (n11 n00 + n10 n01), -1..1; 0 where errors are independent
    double_fault   share of rows both have wrong, n00 / N (Giacinto and Roli 2001), 0..1
    oracle         share of each class's rows that at least one member has right; NaN where the class has no rows

    correlation and q are NaN where they divide by 0: a member that is always right, say. The diagonals hold what a
    member has with itself.
    """

    disagreement: Float[np.ndarray, "m m"]
    correlation: Float[np.ndarray, "m m"]
    q: Float[np.ndarray, "m m"]
    double_fault: Float[np.ndarray, "m m"]
    oracle: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Growth:
    """Macro-F1 of the average of more and more members.

    best: of the best single member. path [S]: of the first 1, 2 .. S of a given order, in which members may come more
    than once. random [R, M]: of the first 1, 2 .. M of each of R random orders. The gain is either, minus `best`.
    """

    best: float
    path: Float[np.ndarray, " s"]
    random: Float[np.ndarray, "r m"]


def diversity(predicted: Int[np.ndarray, "m n"], labels: Labels, classes: int) -> Diversity:
    """How much the predictions of members for these rows differ. Memory: a few [M, N] and [M, M]."""
    right = predicted == labels
    r = right.astype(np.float32)  # counts stay exact below 2 ** 24 rows
    both = (r @ r.T).astype(np.float64)
    alone = both.diagonal()[:, None] - both
    neither = len(labels) - both - alone - alone.T
    same = sum(
        (chosen @ chosen.T).astype(np.float64)
        for chosen in ((predicted == k).astype(np.float32) for k in range(classes))
    )
    ways, against = both * neither, alone * alone.T
    hits = both.diagonal()
    spread = np.sqrt(hits * (len(labels) - hits))
    seen = np.bincount(labels, minlength=classes)
    found = np.bincount(labels[right.any(0)], minlength=classes)
    return Diversity(
        disagreement=1 - same / len(labels),
        correlation=_over(ways - against, spread[:, None] * spread),
        q=_over(ways - against, ways + against),
        double_fault=neither / len(labels),
        oracle=_over(found, seen),
    )


def growth(
    members: Members, labels: Labels, path: Sequence[int] | Int[np.ndarray, " s"], orders: int = 20, seed: int = 0
) -> Growth:
    """What each member more adds on these rows: along a path, best chosen on other rows, and in random orders."""
    draw = np.random.default_rng(seed)
    shuffled = [draw.permutation(len(members)) for _ in range(orders)]
    return Growth(
        best=max(metrics.macro_f1_of(member, labels) for member in members),
        path=_along(members, labels, path),
        random=np.array([_along(members, labels, order) for order in shuffled]),
    )


def _along(members: Members, labels: Labels, order: Sequence[int] | Int[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    total, scores = np.zeros(members.shape[1:]), []
    for m in order:
        total += np.exp(members[m])
        scores.append(metrics.macro_f1_of(total, labels))
    return np.array(scores)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
