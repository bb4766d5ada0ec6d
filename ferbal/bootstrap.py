"""Scores of runs on the test set and on resamples of its rows: the bootstrap that intervals and tests are built on.

Rows are drawn class by class, so that a resample has as many of each as the test set, by the rescaled bootstrap of
Rao and Wu 1988 (JASA 83:231): n_k - 1 of n_k, weighted by n_k / (n_k - 1), whose variance is that of n_k new rows
even where a class has few. Rows of a class that are copies of one picture are drawn together, as one unit. Every run
meets the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ferbal import metrics
from ferbal.errors import DataError
from ferbal.shapes import Float, Int

WHOLE = ("macro_f1", "balanced_accuracy", "accuracy")
"""The scores of a whole test set. Arrays of scores [..., 3 + K] hold these, then the F1 of each class."""

_AT_ONCE = 16_000_000  # numbers held in memory together: resamples are made in blocks


@dataclass(frozen=True, eq=False)
class Predicted:
    """What the runs of one arm predicted on the test set. Arms are paired by the seeds that they share.

    classes [S, N], 0..K-1; seeds [S], each once. For scores over some classes only, leave out the rows of the others
    and take the most probable of the kept ones. never: classes that these runs cannot predict.
    """

    classes: Int[np.ndarray, "s n"]
    seeds: tuple[int, ...]
    never: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one arm's runs on the test set, and on resamples of it that are the same for all arms.

    seen [S, 3 + K], resampled [R, S, 3 + K], right [S, K]: rows of each class that each run predicts right;
    pictures [K]: distinct ones of each class; rows: of test; never: classes that the arm cannot predict
    """

    seeds: tuple[int, ...]
    never: tuple[int, ...]
    seen: Float[np.ndarray, "s m"]
    resampled: Float[np.ndarray, "r s m"]
    right: Int[np.ndarray, "s k"]
    pictures: Int[np.ndarray, " k"]
    rows: int


def score(
    labels: Int[np.ndarray, " n"],
    arms: Mapping[str, Predicted],
    classes: int,
    *,
    group: Int[np.ndarray, " n"] | None = None,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> dict[str, Scores]:
    """Score every run of every arm on the test set and on its resamples.

    group [N]: rows of one number are copies of one picture, and drawn together where they have one label. Raises
    DataError for predictions that do not fit the labels.
    """
    for name, arm in arms.items():
        _check(name, arm, len(labels), classes)
    runs = np.concatenate([np.zeros((0, len(labels)), dtype=np.int64), *(arm.classes for arm in arms.values())])
    seen = np.array([metrics.confusion(labels, run, classes) for run in runs]).reshape(len(runs), classes, classes)
    pictures = np.bincount(_units(labels, group)[1], minlength=classes)
    blocks = _resampled(labels, runs, classes, group, resamples, np.random.default_rng(seed))
    f1 = metrics.f1(seen)
    resampled = np.concatenate([_scores(each, metrics.as_counted(metrics.f1(each), f1)) for each in blocks])
    on_test, right = _scores(seen, f1), seen.diagonal(axis1=-2, axis2=-1)
    ends = np.cumsum([len(arm.seeds) for arm in arms.values()]).tolist()
    parts = [slice(end - len(arm.seeds), end) for arm, end in zip(arms.values(), ends, strict=True)]
    return {
        name: Scores(arm.seeds, arm.never, on_test[part], resampled[:, part], right[part], pictures, len(labels))
        for (name, arm), part in zip(arms.items(), parts, strict=True)
    }


def drawn(
    labels: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"] | None, times: int, seed: int = 0
) -> Iterator[Int[np.ndarray, " m"]]:
    """Rows drawn with replacement: of each class as many pictures as it has, with all of their copies. The plain
    bootstrap, for scores that no confusion matrix gives."""
    unit, stratum = _units(labels, group)
    rows = np.argsort(unit, kind="stable")
    sizes = np.bincount(unit)
    starts = np.cumsum(sizes) - sizes
    strata = [np.flatnonzero(stratum == k) for k in np.unique(stratum)]
    draw = np.random.default_rng(seed)
    for _ in range(times):
        chosen = np.concatenate([units[draw.integers(0, len(units), len(units))] for units in strata])
        many = sizes[chosen]
        before = np.cumsum(many) - many
        yield rows[np.repeat(starts[chosen] - before, many) + np.arange(many.sum())]


def _check(name: str, arm: Predicted, rows: int, classes: int) -> None:
    expected = (len(arm.seeds), rows)
    if not arm.seeds or len(set(arm.seeds)) < len(arm.seeds) or arm.classes.shape != expected:
        raise DataError(
            f"{name}: predictions of shape {arm.classes.shape} for the seeds {arm.seeds} and {rows} test rows; give "
            "one row of predictions for each seed, and each seed once"
        )
    outside = arm.classes[(arm.classes < 0) | (arm.classes >= classes)]
    if outside.size:
        raise DataError(f"{name}: class {outside[0]} is predicted; with {classes} classes they are 0..{classes - 1}")


def _units(
    labels: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"] | None
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " u"]]:
    """The unit of each row, 0..U-1, and the class within which each unit is drawn.

    Copies of one picture that have different labels are a unit in each class: else it would have more rows in some
    resamples than in others.
    """
    if group is None:
        return np.arange(len(labels)), labels
    both = np.stack([group, labels])
    _, first, unit = np.unique(both, axis=1, return_index=True, return_inverse=True)
    return unit.reshape(-1), labels[first]


def _resampled(
    labels: Int[np.ndarray, " n"],
    runs: Int[np.ndarray, "s n"],
    classes: int,
    group: Int[np.ndarray, " n"] | None,
    resamples: int,
    draw: np.random.Generator,
) -> Iterator[Float[np.ndarray, "r s k k"]]:
    """Confusion matrices of all runs on resamples of the rows, in blocks: weights times one-hot predictions."""
    unit, stratum = _units(labels, group)
    size = np.bincount(stratum, minlength=classes)
    block = max(1, _AT_ONCE // (len(stratum) + len(runs) * classes**2 + 1))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        weights = _weights(stratum, classes, count, draw)
        matrices = np.zeros((count, len(runs), classes, classes))
        for k in range(classes):
            rows = np.flatnonzero(labels == k)
            said = (runs[:, rows].T[:, :, None] == np.arange(classes)).astype(np.float32)
            # counts below 2 ** 24 are exact in single precision, so that equal predictions give equal scores
            counts = weights[:, unit[rows]] @ said.reshape(len(rows), len(runs) * classes)
            matrices[:, :, k] = counts.reshape(count, len(runs), classes) * (size[k] / max(size[k] - 1, 1))
        yield matrices


def _weights(
    stratum: Int[np.ndarray, " u"], classes: int, count: int, draw: np.random.Generator
) -> Float[np.ndarray, "r u"]:
    """How often each unit is drawn: n - 1 of the n of its class. A class's only unit is always there."""
    weights = np.ones((count, len(stratum)), dtype=np.float32)
    for k in range(classes):
        members = np.flatnonzero(stratum == k)
        n = len(members)
        if n > 1:
            drawn = draw.integers(0, n, (count, n - 1)) + n * np.arange(count)[:, None]
            weights[:, members] = np.bincount(drawn.reshape(-1), minlength=n * count).reshape(count, n)
    return weights


def _scores(
    matrices: Float[np.ndarray, "*m k k"] | Int[np.ndarray, "*m k k"], f1: Float[np.ndarray, "*m k"]
) -> Float[np.ndarray, "*m j"]:
    """`WHOLE`, then the F1 of each class, of each matrix."""
    figures = metrics.summaries(matrices, f1)
    return np.concatenate([np.stack([figures[name] for name in WHOLE], -1), f1], -1)
