"""Figures agree with scikit-learn and imbalanced-learn; intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from imblearn.metrics import geometric_mean_score
from sklearn import metrics as theirs

from ferbal import data
from ferbal.errors import DataError, UsageError
from ferbal.use import scores

CLASSES = ("a", "b", "c", "d")


def made_up(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])
    logits = draw.normal(size=(rows, 4)) + 1.5 * np.eye(4)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_figures_are_those_of_scikit_learn_and_imbalanced_learn() -> None:
    probabilities, labels = made_up()
    said = probabilities.argmax(1)
    found = scores.score(probabilities, labels, CLASSES, resamples=2)
    expected = {
        "accuracy": theirs.accuracy_score(labels, said),
        "balanced_accuracy": theirs.balanced_accuracy_score(labels, said),
        "macro_f1": theirs.f1_score(labels, said, average="macro"),
        "gmean": geometric_mean_score(labels, said, average="multiclass"),
        "top2": theirs.top_k_accuracy_score(labels, probabilities, k=2),
    }
    assert {name: found.overall[name].value for name in expected} == pytest.approx(expected)
    assert np.array_equal(found.matrix, theirs.confusion_matrix(labels, said))
    for name, values in zip(
        ("precision", "recall", "f1"), theirs.precision_recall_fscore_support(labels, said)[:3], strict=True
    ):
        assert [found.per_class[label][name].value for label in CLASSES] == pytest.approx(values)


def test_calibration_error_is_worked_by_hand() -> None:
    # confidence 0.9 right, 0.9 wrong, 0.6 right: |1.8 - 1| and |0.6 - 1| over 3 rows
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    found = scores.score(probabilities, np.array([0, 1, 1]), ("a", "b"), resamples=1).overall["ece"]
    assert found.value == pytest.approx((0.8 + 0.4) / 3)
    assert str(found) == "0.400"  # of few rows it is too high, and of resamples more so: no interval would hold it


def test_intervals_hold_the_value_shrink_with_rows_and_follow_from_the_seed() -> None:
    few, many = (scores.score(*made_up(rows), CLASSES, resamples=200) for rows in (200, 3200))
    for found in (few, many):
        assert all(one.low <= one.value <= one.high for name, one in found.overall.items() if name != "ece")
    widths = [one.overall["accuracy"].high - one.overall["accuracy"].low for one in (few, many)]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)
    again, other = (scores.score(*made_up(200), CLASSES, resamples=200, seed=seed) for seed in (0, 1))
    assert again.overall == few.overall
    assert other.overall != few.overall


def test_rows_are_drawn_within_their_class() -> None:
    """With all of one class right and all of the other wrong, no resample changes the recalls, and none tells
    how far other rows would."""
    labels = np.repeat([0, 1], [90, 10])
    probabilities = np.tile([0.8, 0.2], (100, 1))
    found = scores.score(probabilities, labels, ("a", "b"), resamples=50)
    assert str(found.overall["accuracy"]) == "0.900"
    assert [str(found.per_class[name]["recall"]) for name in "ab"] == ["1.000", "0.000"]


def test_a_class_that_the_model_cannot_say_is_missed_for_certain() -> None:
    labels = np.repeat([0, 1], [90, 10])
    found = scores.score(np.tile([1.0, 0.0], (100, 1)), labels, ("a", "b"), resamples=50)
    assert str(found.per_class["b"]["f1"]) == "0.000 (0.000..0.000)"


def test_classes_are_matched_by_name() -> None:
    logits = np.log(np.array([[0.2, 0.3, 0.5]]))
    wide = scores.matched(logits, ("x", "b", "a"), ("a", "b", "c"))
    assert wide.tolist() == [[np.log(0.5), np.log(0.3), -np.inf]]
    with pytest.raises(DataError, match="the model's classes are x, b, a and the data set's a, y"):
        scores.matched(logits, ("x", "b", "a"), ("a", "y"))


def test_rows_with_a_twin_are_left_out_of_a_second_count(base: object) -> None:
    from dataclasses import replace

    dataset = data.open("tiny", base)  # type: ignore[arg-type]
    group = dataset.test.group.copy()
    group[:5] = dataset.train.group[0]
    leaky = replace(dataset, test=replace(dataset.test, group=group))
    probabilities = np.full((48, 3), 1 / 3)
    found = scores.official_and_without_twins(probabilities, leaky, "test", resamples=1, seed=0)
    assert {name: one.rows for name, one in found.items()} == {"all rows": 48, "without twins": 43}
    assert list(scores.official_and_without_twins(probabilities, dataset, "val", resamples=1, seed=0)) == ["all rows"]
    with pytest.raises(UsageError, match=r"no split 'tst' \(did you mean 'test'\?\)"):
        scores.part(dataset, "tst")


def test_copies_of_a_picture_are_drawn_together() -> None:
    probabilities, labels = made_up(200)
    once = scores.score(probabilities, labels, CLASSES, resamples=200)
    four = np.tile(probabilities, (4, 1)), np.tile(labels, 4)
    together = scores.score(*four, CLASSES, group=np.tile(np.arange(200), 4), resamples=200)
    assert together.overall["accuracy"] == once.overall["accuracy"]
    apart = scores.score(*four, CLASSES, resamples=200).overall["accuracy"]
    assert apart.high - apart.low == pytest.approx(
        (once.overall["accuracy"].high - once.overall["accuracy"].low) / 2, rel=0.25
    )


def test_a_class_of_one_picture_has_no_intervals() -> None:
    labels = np.array([0] * 20 + [1])
    said = np.array([1] + [0] * 19 + [1])
    found = scores.score(np.eye(2)[said], labels, ("a", "b"), resamples=200).per_class
    assert str(found["b"]["recall"]) == "1.000"
    assert str(found["a"]["recall"]) == "0.950 (0.850..1.000)"


def test_a_class_that_is_said_once_and_falsely_stays_in_the_mean_of_every_resample() -> None:
    labels = np.repeat([0, 1], 20)
    said = labels.copy()
    said[0] = 2
    found = scores.score(np.eye(3)[said], labels, ("a", "b", "c"), resamples=100).overall["macro_f1"]
    assert found.value < 2 / 3
    assert found.high <= 2 / 3 + 1e-9
