"""Scores of predictions, from a confusion matrix or from probabilities. NumPy only."""

from __future__ import annotations

import numpy as np

from ferbal.shapes import Float, Int, Real


def confusion(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts of (true, predicted). Rows are true classes, columns predictions."""
    cell = labels.astype(np.int64) * classes + predicted
    return np.bincount(cell, minlength=classes * classes).reshape(classes, classes)


def precision(matrix: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Right predictions of each class over all predictions of it, 0..1. 0 where it is never predicted."""
    return _ratio(np.diag(matrix), matrix.sum(0), empty=0.0)


def recall(matrix: Real[np.ndarray, "*m k k"]) -> Float[np.ndarray, "*m k"]:
    """Right predictions of each class over its rows, 0..1, of one matrix or many. NaN where the class has no rows."""
    return _ratio(matrix.diagonal(axis1=-2, axis2=-1), matrix.sum(-1), empty=np.nan)


def f1(matrix: Real[np.ndarray, "*m k k"]) -> Float[np.ndarray, "*m k"]:
    """F1 of each class, 0..1, of one matrix or many. A class that is neither seen nor predicted is NaN."""
    return _ratio(2 * matrix.diagonal(axis1=-2, axis2=-1), matrix.sum(-2) + matrix.sum(-1), empty=np.nan)


def class_mean(values: Float[np.ndarray, "*m k"]) -> Float[np.ndarray, "*m"]:
    """Mean over the classes that have a value; NaN where none has."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, -1) / (~np.isnan(values)).sum(-1))


def as_counted(f1: Float[np.ndarray, "*m k"], whole: Float[np.ndarray, "*w k"]) -> Float[np.ndarray, "*m k"]:
    """F1 on resamples of rows whose F1 is `whole`: 0 for a class that counts there and is neither seen nor predicted.

    A class that was predicted once, and falsely, would else leave the mean whenever that row is not drawn.
    """
    return np.where(np.isnan(f1) & ~np.isnan(whole), 0.0, f1)


def macro_f1(matrix: Int[np.ndarray, "k k"]) -> float:
    """Mean F1 over the classes that are seen or predicted (the convention of scikit-learn)."""
    return float(class_mean(f1(matrix)))


def accuracy(matrix: Int[np.ndarray, "k k"]) -> float:
    """Share of rows predicted right, 0..1. NaN without rows."""
    return float(np.trace(matrix) / matrix.sum()) if matrix.sum() else float("nan")


def balanced_accuracy(matrix: Int[np.ndarray, "k k"]) -> float:
    """Mean recall over the classes that have rows, 0..1."""
    return float(class_mean(recall(matrix)))


def gmean(matrix: Int[np.ndarray, "k k"]) -> float:
    """Geometric mean of the recalls of the classes that have rows: 0 as soon as one class is lost."""
    return summary(matrix)["gmean"]


def macro_f1_of(scores: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Macro-F1 of taking the class with the highest score in each row."""
    return macro_f1(confusion(labels, scores.argmax(1), scores.shape[1]))


def expected_calibration_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of confidence, 0..1 (Guo et al. 2017)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(slot, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def summary(matrix: Int[np.ndarray, "k k"]) -> dict[str, float]:
    """The figures that a table shows for one model, in the order in which it shows them."""
    return {name: float(value) for name, value in summaries(matrix, f1(matrix)).items()}


def summaries(
    matrices: Real[np.ndarray, "*m k k"], f1: Float[np.ndarray, "*m k"]
) -> dict[str, Float[np.ndarray, "*m"]]:
    """The same figures of one matrix or many. f1: of each class, over which macro-F1 is the mean."""
    found = recall(matrices)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "macro_f1": class_mean(f1),
            "balanced_accuracy": class_mean(found),
            "accuracy": np.asarray(matrices.trace(axis1=-2, axis2=-1) / matrices.sum((-2, -1))),
            "gmean": np.exp(class_mean(np.log(found))),
        }


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities of each row. A logit of -inf (a class the model does not know) becomes 0."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def log_softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Log-probabilities of each row, also where a probability is too small for its number format. -inf stays."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def predicted(logits: Float[np.ndarray, "n k0"], becomes: Int[np.ndarray, " k0"]) -> Int[np.ndarray, " n"]:
    """The predicted class of each row, as a class of the data set.

    becomes: the model's own class for each class of the data set, -1 for one that it does not know. A merged class
    counts with the summed probability of its members and is reported as the first of them.
    """
    known = np.flatnonzero(becomes >= 0)
    own, first = np.unique(becomes[known], return_index=True)
    whole = np.full((len(logits), len(own)), -np.inf)
    for k in known:
        place = int(np.searchsorted(own, becomes[k]))
        whole[:, place] = np.logaddexp(whole[:, place], logits[:, k])
    return known[first][whole.argmax(1)]


def _ratio(top: np.ndarray, bottom: np.ndarray, empty: float) -> Float[np.ndarray, "*m k"]:
    return np.divide(top, bottom, out=np.full(top.shape, empty), where=bottom > 0)
