"""Precision-recall and calibration against scikit-learn and by hand; mistakes in their order."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from ferbal.report.curves import BINS, RECALLS, calibration, precision_recall
from ferbal.report.mistakes import confident_mistakes


@pytest.mark.parametrize("seed", range(5))
def test_precision_at_recall_is_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    belongs = (draw.random(400) < 0.2).astype(np.int64)
    given = np.round(np.clip(draw.normal(0.3 + 0.3 * belongs, 0.2), 0, 1), 2)  # with ties
    found = precision_recall(given, belongs)
    assert found.average == pytest.approx(average_precision_score(belongs, given))
    precision, recall, _ = precision_recall_curve(belongs, given)
    precision, recall = precision[:-1], recall[:-1]  # the last is the end that it adds
    for at, mine in zip(RECALLS, found.precision, strict=True):
        reached = np.flatnonzero(recall >= at - 1e-9)
        assert mine == pytest.approx(precision[reached[-1]])


def test_a_class_that_is_given_nothing_is_as_precise_as_it_is_common() -> None:
    found = precision_recall(np.zeros(8), np.array([1, 0, 0, 0, 1, 0, 0, 0]))
    assert found.precision.tolist() == [0.25] * len(RECALLS)
    assert found.average == 0.25


def test_a_class_without_rows_has_no_precision() -> None:
    found = precision_recall(np.array([0.2, 0.9]), np.array([0, 0]))
    assert np.isnan(found.precision).all()
    assert np.isnan(found.average)


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.05, 0.07, 0.95, 1.0]), np.array([0, 1, 1, 1]))
    assert found.rows.tolist() == [2, *[0] * (BINS - 2), 2]
    assert found.said[[0, -1]] == pytest.approx([0.06, 0.975])
    assert found.true[[0, -1]] == pytest.approx([0.5, 1.0])
    assert np.isnan(found.true[1:-1]).all()


def test_mistakes_come_by_pair_and_by_confidence() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    said = np.array([[0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.9, 0.1, 0], [0, 0.2, 0.8], [0, 1, 0], [0, 0, 1]])
    found = confident_mistakes(said, labels)
    assert [(one.row, one.true, one.predicted) for one in found] == [(1, 0, 1), (0, 0, 1), (3, 1, 2)]
    assert found[0].confidence == 0.8
    assert [one.row for one in confident_mistakes(said, labels, pairs=1, each=1)] == [1]
