"""Label doubts, worked by hand and against labels that were turned on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from ferbal.data.label_errors import label_doubts
from ferbal.errors import DataError


def test_a_small_example_worked_by_hand() -> None:
    # thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.7 + 0.9 + 0.5) / 3 = 0.7
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5]])
    doubts = label_doubts(p, np.array([0, 0, 0, 1, 1, 1]))
    assert doubts.rows.tolist() == [2]
    assert doubts.suggested.tolist() == [1]
    assert doubts.margin == pytest.approx([-0.8])


def test_a_rare_class_with_a_low_bar_is_suggested_though_it_is_not_the_likeliest() -> None:
    # thresholds: 0.8 for class 0 (0.95, 0.95, 0.501), 0.4 for class 1 (0.3, 0.5)
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.501, 0.499], [0.7, 0.3], [0.5, 0.5]])
    doubts = label_doubts(p, np.array([0, 0, 0, 1, 1]))
    assert doubts.rows.tolist() == [2]
    assert doubts.suggested.tolist() == [1]
    assert doubts.margin == pytest.approx([0.002])


def test_among_several_confident_classes_the_likeliest_counts() -> None:
    # thresholds: 0.35 for class 0 (0.6, 0.1), 0.47 for class 1 (0.5, 0.4, 0.5), 0.5 for class 2
    p = [[0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6], [0.1, 0.5, 0.4], [0.1, 0.4, 0.5]]
    doubts = label_doubts(np.array(p), np.array([0, 1, 2, 1, 1, 0]))
    assert doubts.rows.tolist() == [5, 3]
    assert doubts.suggested.tolist() == [2, 2]
    assert doubts.margin == pytest.approx([-0.4, -0.2])
    # a seventh row reaches class 0 (now 0.37) and class 1 (0.47)
    both = label_doubts(np.array([*p, [0.42, 0.48, 0.1]]), np.array([0, 1, 2, 1, 1, 0, 0]))
    assert dict(zip(both.rows.tolist(), both.suggested.tolist(), strict=True))[6] == 1


def test_rows_are_ranked_by_margin() -> None:
    p = np.array([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 8 + [[0.25, 0.75], [0.0, 1.0], [0.1, 0.9]])
    labels = np.array([0] * 8 + [1] * 8 + [0, 0, 0])
    # the bar of class 1 is 0.9, so that the row at 0.75 convinces nobody
    doubts = label_doubts(p, labels)
    assert doubts.rows.tolist() == [17, 18]
    assert doubts.margin == pytest.approx([-1.0, -0.8])


def test_a_class_without_rows_is_never_suggested() -> None:
    p = np.array([[0.1, 0.0, 0.9], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    doubts = label_doubts(p, np.array([0, 0, 1]))
    assert doubts.rows.tolist() == []


def test_rows_of_a_class_the_model_was_not_taught_are_not_judged() -> None:
    p = np.array([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8], [0.1, 0.0, 0.9], [0.95, 0.0, 0.05], [0.9, 0.0, 0.1]])
    doubts = label_doubts(p, np.array([0, 1, 2, 1, 2]))
    assert doubts.rows.tolist() == [4]


def test_equal_probabilities_reach_their_own_mean() -> None:
    p = np.tile([[0.7, 0.3], [0.3, 0.7]], (3, 1))
    doubts = label_doubts(p, np.tile([0, 1], 3))
    assert len(doubts) == 0


def test_nothing_to_judge_is_nothing_doubted() -> None:
    doubts = label_doubts(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    assert len(doubts) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_turned_labels_are_found_and_few_others(dtype: type) -> None:
    """A calibrated model of 5 unequal classes that is right for 94 % of the rows; one label in ten is turned."""
    draw = np.random.default_rng(0)
    n, k = 6000, 5
    truth = draw.choice(k, n, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    logits = draw.normal(size=(n, k)) + np.log([0.4, 0.3, 0.15, 0.1, 0.05])
    logits[np.arange(n), truth] += 3.0
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    turned = draw.random(n) < 0.1
    labels = np.where(turned, (truth + draw.integers(1, k, n)) % k, truth)
    doubts = label_doubts(p.astype(dtype), labels)
    found = turned[doubts.rows]
    assert found.sum() / turned.sum() > 0.68
    assert found.mean() > 0.94
    assert found[:300].all()
    assert (doubts.suggested == truth[doubts.rows])[found].mean() > 0.98


def test_impossible_input_is_refused_with_its_row() -> None:
    p = np.array([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(DataError, match=r"row 1 has probabilities \[nan.*softmax"):
        label_doubts(np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]))
    with pytest.raises(DataError, match=r"row 0 has probabilities \[2\.0, -1\.0\]"):
        label_doubts(np.array([[2.0, -1.0]]), np.array([0]))
    with pytest.raises(DataError, match=r"row 1 has label 2; known are 0\.\.1"):
        label_doubts(p, np.array([0, 2]))
    with pytest.raises(DataError, match="1 class"):
        label_doubts(np.ones((2, 1)), np.array([0, 0]))
