"""What a fitted ensemble scores on rows it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferbal import bootstrap, metrics
from ferbal.ensemble.members import Labels, LogProbabilities, Members, Method
from ferbal.errors import DataError
from ferbal.shapes import Float, Int

FOLDS = 5
SEED = 0  # of the folds and the bootstrap
DRAWS = 1000  # of the bootstrap
TAIL = 2.5  # percent of them to either side of an interval


@dataclass(frozen=True, eq=False)
class Estimate:
    """A nested estimate. scores and intervals: by the names of `metrics.summary`; log_probabilities: out of fold.

    An interval holds the middle 95 % of the scores of bootstrap samples. It reflects the noise of these rows, not
    that of training again.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    log_probabilities: LogProbabilities


def estimate(
    method: Method, members: Members, labels: Labels, groups: Int[np.ndarray, " n"] | None = None
) -> Estimate:
    """Nested cross-validation: fitted on all folds but one, the method predicts that one; the predictions are pooled.

    groups: rows of one group (equal pictures) stay in one fold, and in the bootstrap. Whatever the method chooses, it
    chooses inside the folds it is fitted on. A member that knew the labels looks perfect here too: see `suspicious`.
    """
    said = out_of_fold(method, members, labels, groups)
    predicted, classes = said.argmax(1), members.shape[2]
    whole, cells = metrics.confusion(labels, predicted, classes), labels * classes + predicted
    drawn = [np.bincount(cells[rows], minlength=classes**2) for rows in bootstrap.drawn(labels, groups, DRAWS, SEED)]
    matrices = np.array(drawn).reshape(DRAWS, classes, classes)
    resampled = metrics.summaries(matrices, metrics.as_counted(metrics.f1(matrices), metrics.f1(whole)))
    intervals = {name: _middle(values) for name, values in resampled.items()}
    scores = metrics.summary(whole)
    return Estimate(scores, intervals, said)


def _middle(scores: Float[np.ndarray, " r"]) -> tuple[float, float]:
    low, high = np.nanpercentile(scores, [TAIL, 100 - TAIL])
    return float(low), float(high)


def out_of_fold(
    method: Method, members: Members, labels: Labels, groups: Int[np.ndarray, " n"] | None = None
) -> LogProbabilities:
    """What the method predicts for every row when it is fitted on the other folds."""
    fold = dealt(labels, groups, FOLDS, SEED)
    if len(np.unique(fold)) < 2:
        raise DataError(
            f"{len(labels)} rows in {len(np.unique(fold))} fold: nothing is left to fit on. "
            "An estimate needs at least two rows that are not the same picture"
        )
    said = np.empty(members.shape[1:])
    for held_out in np.unique(fold):
        inside = fold != held_out
        said[~inside] = method(members[:, inside], labels[inside]).apply(members[:, ~inside])
    return said


def dealt(labels: Labels, groups: Int[np.ndarray, " n"] | None, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold of every row, 0 to folds - 1: classes spread evenly, rows of one group in one fold."""
    draw = np.random.default_rng(seed)
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    first, size = np.unique(own, return_index=True, return_counts=True)[1:]
    fold, filled = np.zeros(len(first), dtype=np.int64), np.zeros(folds)
    for k in np.unique(labels):
        inside = np.zeros(folds)
        shuffled = draw.permutation(np.flatnonzero(labels[first] == k))
        for group in shuffled[np.argsort(-size[shuffled], kind="stable")]:
            chosen = min(range(folds), key=lambda f: (inside[f], filled[f]))
            fold[group] = chosen
            inside[chosen] += size[group]
            filled[chosen] += size[group]
    return fold[own]
