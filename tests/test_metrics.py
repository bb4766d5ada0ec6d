"""Scores against scikit-learn and imbalanced-learn, missing and unpredicted classes included."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from imblearn.metrics import geometric_mean_score
from sklearn import metrics as sk

from ferbal import metrics

few = settings(max_examples=50, deadline=None)
K = 5


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions over K classes, each from some of them: others are missing."""
    rows = draw(st.integers(1, 40))
    subsets = st.lists(st.sampled_from(range(K)), min_size=1, unique=True)
    labels, predicted = (
        np.array(draw(st.lists(st.sampled_from(draw(subsets)), min_size=rows, max_size=rows))) for _ in range(2)
    )
    return labels, np.where(draw(arrays(bool, rows)), labels, predicted)


@few
@given(predictions())
def test_the_confusion_matrix_is_that_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    expected = sk.confusion_matrix(labels, predicted, labels=np.arange(K))
    assert metrics.confusion(labels, predicted, K).tolist() == expected.tolist()


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    matrix = metrics.confusion(np.array([0, 0, 2]), np.array([1, 0, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_the_confusion_matrix_holds_for_narrow_integers() -> None:
    labels = np.arange(100, dtype=np.int8)
    assert metrics.confusion(labels, labels, 100).tolist() == np.eye(100, dtype=int).tolist()


@few
@given(predictions())
def test_figures_of_each_class_are_those_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    matrix = metrics.confusion(labels, predicted, K)
    asked = {"y_true": labels, "y_pred": predicted, "labels": np.arange(K), "average": None}
    same = {"rel": 1e-12, "nan_ok": True}
    assert metrics.precision(matrix) == pytest.approx(sk.precision_score(**asked, zero_division=0), **same)
    assert metrics.recall(matrix) == pytest.approx(sk.recall_score(**asked, zero_division=np.nan), **same)
    assert metrics.f1(matrix) == pytest.approx(sk.f1_score(**asked, zero_division=np.nan), **same)


@few
@given(predictions())
def test_figures_over_all_classes_are_those_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    figures = metrics.summary(metrics.confusion(labels, predicted, K))
    with warnings.catch_warnings():  # scikit-learn warns of classes that are predicted and never seen
        warnings.simplefilter("ignore")
        expected = {
            "macro_f1": sk.f1_score(labels, predicted, average="macro"),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "accuracy": sk.accuracy_score(labels, predicted),
            "gmean": geometric_mean_score(labels, predicted, labels=np.unique(labels), average="multiclass"),
        }
    assert figures == pytest.approx(expected, rel=1e-9)
    assert list(figures) == list(expected)


def test_figures_of_one_small_matrix_by_hand() -> None:
    matrix = np.array([[3, 1, 0, 0], [2, 2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])  # c is lost, d has no rows
    assert metrics.precision(matrix).tolist() == [3 / 5, 2 / 3, 0, 0]
    assert metrics.recall(matrix) == pytest.approx([3 / 4, 1 / 2, 0, np.nan], nan_ok=True)
    assert metrics.f1(matrix) == pytest.approx([6 / 9, 4 / 7, 0, 0])
    assert metrics.accuracy(matrix) == pytest.approx(5 / 9)
    assert metrics.macro_f1(matrix) == pytest.approx((6 / 9 + 4 / 7) / 4)
    assert metrics.balanced_accuracy(matrix) == pytest.approx((3 / 4 + 1 / 2) / 3)
    assert metrics.gmean(matrix) == 0
    assert metrics.gmean(matrix[:2, :2]) == pytest.approx((3 / 8) ** 0.5)


def test_without_rows_every_figure_is_nan_and_nothing_warns() -> None:
    empty = np.zeros((3, 3), dtype=np.int64)
    assert np.isnan(list(metrics.summary(empty).values())).all()
    assert np.isnan(metrics.f1(empty)).all()


THREE = np.array([[0.95, 0.05], [0.85, 0.15], [0.35, 0.65]])  # said 0, 0 and 1
TRUTH = np.array([0, 1, 1])  # right, wrong, right


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (1, abs(2 - (0.95 + 0.85 + 0.65)) / 3),  # all in one
        (5, (abs(1 - (0.95 + 0.85)) + abs(1 - 0.65)) / 3),  # 0.95 and 0.85 share the top bin
        (10, (abs(1 - 0.95) + abs(0 - 0.85) + abs(1 - 0.65)) / 3),  # each its own
    ],
)
def test_calibration_error_of_three_rows_by_hand(bins: int, expected: float) -> None:
    assert metrics.expected_calibration_error(THREE, TRUTH, bins=bins) == pytest.approx(expected, rel=1e-12)


def test_full_confidence_falls_into_the_last_bin() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.expected_calibration_error(sure, np.array([0, 0])) == 0
    assert metrics.expected_calibration_error(sure, np.array([0, 1])) == 0.5
    assert metrics.expected_calibration_error(sure, np.array([1, 1])) == 1
    beside = np.array([[1.0, 0.0], [0.9, 0.1]])  # wrong and right: one bin holds both
    assert metrics.expected_calibration_error(beside, np.array([1, 0]), bins=5) == pytest.approx(0.9 / 2)


@few
@given(seed=st.integers(0, 999), rows=st.integers(1, 60), bins=st.integers(1, 20))
def test_calibration_error_is_the_row_weighted_gap_of_each_bin(seed: int, rows: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(K) / 2, size=rows)
    labels = generator.integers(0, K, size=rows)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = metrics.expected_calibration_error(probabilities, labels, bins=bins)
    assert found == pytest.approx(expected, abs=1e-12)


@few
@given(arrays(np.float64, (4, K), elements=st.floats(-1e4, 1e4)))
def test_softmax_is_that_of_scipy_and_never_overflows(logits: np.ndarray) -> None:
    assert metrics.softmax(logits) == pytest.approx(scipy.special.softmax(logits, axis=1), rel=1e-12)


def test_softmax_gives_an_unknown_class_nothing() -> None:
    said = metrics.softmax(np.array([[0.0, -np.inf, np.log(3.0)], [-np.inf, -np.inf, -5.0]]))
    assert said == pytest.approx(np.array([[0.25, 0, 0.75], [0, 0, 1]]))
    assert said[0, 1] == said[1, 0] == 0


def test_a_merged_class_answers_with_its_whole_probability() -> None:
    """Of a + c .45, b .30 and d .25 it is a + c that is said, though a and c have .225 each."""
    with np.errstate(divide="ignore"):  # a class that was left out
        logits = np.log([[0.225, 0.30, 0.225, 0.0, 0.25], [0.10, 0.45, 0.10, 0.0, 0.35]])
    assert metrics.predicted(logits, np.array([0, 1, 0, -1, 2])).tolist() == [0, 1]
    assert metrics.predicted(logits, np.array([1, 0, 1, -1, 2])).tolist() == [0, 1]


def test_without_merged_classes_the_largest_logit_answers() -> None:
    logits = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert np.array_equal(metrics.predicted(logits, np.arange(4)), logits.argmax(1))
    assert np.array_equal(metrics.predicted(logits, np.array([2, 0, 1, 3])), logits.argmax(1))


def test_the_geometric_mean_of_a_thousand_recalls_is_no_zero() -> None:
    right = np.eye(1000, dtype=int)
    assert metrics.gmean(2 * right + 3 * np.roll(right, 1, axis=1)) == pytest.approx(0.4)
