"""How good a model is on a split: figures with bootstrap intervals, class by class, and where it errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ferbal import bootstrap, data, metrics
from ferbal.dataset import Dataset, Split
from ferbal.errors import DataError, UsageError, nearest
from ferbal.shapes import Float, Int

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval. NaN where it is not defined, or where rows like these cannot tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f}" + ("" if np.isnan(self.low) else f" ({self.low:.3f}..{self.high:.3f})")


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model is worth on some rows. matrix: rows are true classes. per_class: precision, recall and F1."""

    classes: tuple[str, ...]
    rows: int
    overall: dict[str, Figure]
    per_class: dict[str, dict[str, Figure]]
    matrix: Int[np.ndarray, "k k"]


def score(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    classes: tuple[str, ...],
    *,
    group: Int[np.ndarray, " n"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Figures of these rows, with percentiles over resamples of the pictures of each true class as intervals.

    group [N]: rows of one number are copies of one picture, and drawn together. A class with a single picture has no
    intervals of its own. Nor has a figure that is the same in every resample, as the F1 of a class that is always
    missed, unless the model cannot say that class; nor the calibration error: that of few rows is too high, and of
    resamples even higher.
    """
    if not len(labels):
        raise DataError("there are no rows to score")
    said = probabilities.argmax(1)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    among_two = (order[:, :2] == labels[:, None]).any(1)
    matrix = metrics.confusion(labels, said, len(classes))
    point = _figures(probabilities, labels, said, among_two, matrix)
    unit = np.arange(len(labels)) if group is None else group
    drawn = [
        _figures(probabilities[rows], labels[rows], said[rows], among_two[rows], None)
        for rows in bootstrap.drawn(labels, unit, resamples, seed)
    ]
    for figures, each in drawn:
        figures["macro_f1"] = float(metrics.class_mean(metrics.as_counted(each["f1"], point[1]["f1"])))
    overall = {
        name: _figure(value, [figures[name] for figures, _ in drawn] if name != "ece" else [])
        for name, value in point[0].items()
    }
    per_class, sayable = {}, probabilities.max(axis=0) > 0
    for k, label in enumerate(classes):
        known = drawn if len(np.unique(unit[labels == k])) > 1 else []
        per_class[label] = {
            name: _figure(float(values[k]), [float(each[name][k]) for _, each in known], certain=not sayable[k])
            for name, values in point[1].items()
        }
    return Scores(classes, len(labels), overall, per_class, matrix)


def matched(
    logits: Float[np.ndarray, "n k"], classes: tuple[str, ...], wanted: tuple[str, ...]
) -> Float[np.ndarray, "n k2"]:
    """Logits over the classes of a data set, by name: -inf for those the model does not know, its others left out."""
    common = [name for name in wanted if name in classes]
    if len(common) < 2:
        raise DataError(
            f"the model's classes are {', '.join(classes)} and the data set's {', '.join(wanted)}: two or more must "
            "have the same name. `ferbal data import --classes` names them"
        )
    wide = np.full((len(logits), len(wanted)), -np.inf)
    for place, name in enumerate(wanted):
        if name in common:
            wide[:, place] = logits[:, classes.index(name)]
    if not np.isfinite(wide).any(1).all():
        raise DataError("the model left out every class that this data set has")
    return wide


def part(dataset: Dataset, name: str) -> Split:
    """A split by its name."""
    known = ("train", "val", "test")
    if name not in known:
        raise UsageError(f"no split {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    split: Split = getattr(dataset, name)
    return split


def official_and_without_twins(
    probabilities: Float[np.ndarray, "n k"], dataset: Dataset, split: str, *, resamples: int, seed: int
) -> dict[str, Scores]:
    """The scores on a split as it is, and on its rows whose picture is in no other split, where that is fewer."""
    chosen = part(dataset, split)
    which = {"all rows": np.arange(len(chosen))}
    if split == "test" and len(alone := data.without_twin(dataset)) < len(chosen):
        which["without twins"] = alone
    return {
        name: score(
            probabilities[rows],
            chosen.labels[rows],
            dataset.classes,
            group=chosen.group[rows],
            resamples=resamples,
            seed=seed,
        )
        for name, rows in which.items()
    }


def as_json(scores: Scores) -> dict[str, Any]:
    """For `--json`: None where a figure is not defined."""

    def told(figure: Figure) -> dict[str, float | None]:
        return {
            name: None if np.isnan(value) else round(value, 6)
            for name, value in (("value", figure.value), ("low", figure.low), ("high", figure.high))
        }

    return {
        "rows": scores.rows,
        **{name: told(figure) for name, figure in scores.overall.items()},
        "per_class": {
            label: {"rows": int(scores.matrix[k].sum())} | {name: told(figure) for name, figure in figures.items()}
            for k, (label, figures) in enumerate(scores.per_class.items())
        },
        "confusion": scores.matrix.tolist(),
    }


def _figures(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    said: Int[np.ndarray, " n"],
    among_two: np.ndarray,
    matrix: Int[np.ndarray, "k k"] | None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    if matrix is None:
        matrix = metrics.confusion(labels, said, probabilities.shape[1])
    overall = metrics.summary(matrix) | {
        "top2": float(among_two.mean()),
        "ece": metrics.expected_calibration_error(probabilities, labels),
    }
    return overall, {
        "precision": metrics.precision(matrix),
        "recall": metrics.recall(matrix),
        "f1": metrics.f1(matrix),
    }


def _figure(value: float, drawn: list[float], certain: bool = False) -> Figure:
    seen = np.array(drawn)[~np.isnan(drawn)]
    if not len(seen) or (np.ptp(seen) == 0 and not certain):
        return Figure(value, np.nan, np.nan)
    low, high = np.quantile(seen, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))
