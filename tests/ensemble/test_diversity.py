"""Diversity: each measure by hand from its formula, and what members add."""

from __future__ import annotations

import numpy as np
import pytest
from made_members import macro_f1, made_up
from sklearn.metrics import matthews_corrcoef

from ferbal.ensemble import diversity, greedy_path, growth


def saying(*predicted: list[int]) -> np.ndarray:
    return np.array(predicted)


LABELS = np.array([0, 0, 1, 1, 2, 2])
FIRST, SECOND = [0, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]  # right 110 100 and 101 100: rows 0 1 2 and 0 2 3


def test_the_measures_by_hand() -> None:
    # First right on rows 0, 1, 2; second on 0, 2, 3. n11 = 2, n10 = 1, n01 = 1, n00 = 2. Classes differ on 1, 3, 5.
    found = diversity(saying(FIRST, SECOND), LABELS, 3)
    assert found.disagreement[0, 1] == pytest.approx(3 / 6)
    assert found.double_fault[0, 1] == pytest.approx(2 / 6)
    assert found.q[0, 1] == pytest.approx((2 * 2 - 1 * 1) / (2 * 2 + 1 * 1))
    assert found.correlation[0, 1] == pytest.approx((2 * 2 - 1) / np.sqrt(3 * 3 * 3 * 3))
    assert found.oracle == pytest.approx([1, 1, 0])


def test_correlation_of_errors_is_scikit_learns_matthews_coefficient() -> None:
    members, labels = made_up(0, members=5, rows=90)
    right = members.argmax(2) == labels
    found = diversity(members.argmax(2), labels, members.shape[2])
    for i in range(5):
        for j in range(5):
            assert found.correlation[i, j] == pytest.approx(matthews_corrcoef(right[i], right[j]))
            assert found.disagreement[i, j] == pytest.approx((members[i].argmax(1) != members[j].argmax(1)).mean())
            assert found.double_fault[i, j] == pytest.approx((~right[i] & ~right[j]).mean())
            assert found.q[i, j] == pytest.approx(found.q[j, i], nan_ok=True)


def test_a_member_with_itself() -> None:
    members, labels = made_up(1, members=3, rows=90)
    found = diversity(members.argmax(2), labels, members.shape[2])
    assert found.disagreement.diagonal() == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.correlation.diagonal() == pytest.approx([1, 1, 1])
    assert found.q.diagonal() == pytest.approx([1, 1, 1])


def test_a_member_that_is_always_right_correlates_with_nobody() -> None:
    found = diversity(saying(LABELS.tolist(), FIRST), LABELS, 3)
    assert np.isnan(found.correlation[0]).all()
    assert np.isnan(found.q[0]).all()
    assert found.double_fault[0].tolist() == [0, 0]


def test_the_oracle_of_a_class_without_rows_is_nan() -> None:
    found = diversity(saying([0, 1], [0, 0]), np.array([0, 1]), 3)
    assert found.oracle[:2].tolist() == [1, 1]
    assert np.isnan(found.oracle[2])


def test_growth_along_a_path_is_that_of_its_prefixes() -> None:
    members, labels = made_up(2, members=5, rows=90)
    path = greedy_path(members, labels, steps=8)
    found = growth(members, labels, path.taken)
    assert found.path == pytest.approx(path.scores)
    assert found.best == pytest.approx(max(macro_f1(member, labels) for member in members))


def test_every_random_order_ends_at_the_average_and_begins_with_a_member() -> None:
    members, labels = made_up(3, members=5, rows=90)
    found = growth(members, labels, [0], orders=7)
    assert found.random.shape == (7, 5)
    assert found.random[:, -1] == pytest.approx(np.full(7, macro_f1(np.exp(members).mean(0), labels)))
    alone = {round(macro_f1(member, labels), 9) for member in members}
    assert {round(first, 9) for first in found.random[:, 0]} <= alone
    assert growth(members, labels, [0], orders=7).random.tolist() == found.random.tolist()
