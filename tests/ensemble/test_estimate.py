"""Nested estimates: nothing is predicted by what was fitted on it, and the interval holds what comes."""

from __future__ import annotations

import numpy as np
import pytest
from made_members import made_up
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from ferbal import metrics
from ferbal.ensemble import METHODS, Combined, average, estimate, log_probabilities
from ferbal.ensemble.estimate import dealt, out_of_fold
from ferbal.errors import DataError


def test_what_is_fitted_never_sees_the_rows_it_predicts() -> None:
    members, labels = made_up(0, rows=50)
    members[0, :, 0] = np.arange(50)  # which row it is
    seen: list[set[float]] = []

    def spy(some: np.ndarray, _: np.ndarray) -> Combined:
        inside = set(some[0, :, 0])

        def apply(others: np.ndarray) -> np.ndarray:
            assert not inside & set(others[0, :, 0])
            seen.append(set(others[0, :, 0]))
            return others[0]

        return Combined(apply, None)

    assert out_of_fold(spy, members, labels)[:, 0].tolist() == list(range(50))
    assert len(seen) == 5


def test_folds_share_classes_evenly_and_keep_groups_whole() -> None:
    draw = np.random.default_rng(0)
    labels = np.sort(draw.choice(3, 300, p=[0.6, 0.3, 0.1]))
    groups = np.arange(300) // 3
    fold = dealt(labels, groups, 5, seed=0)
    assert all(len(set(fold[groups == group])) == 1 for group in np.unique(groups))
    counts = np.array([np.bincount(fold[labels == k], minlength=5) for k in range(3)])
    assert (np.ptp(counts, axis=1) <= 5).all()
    assert dealt(labels, groups, 5, seed=0).tolist() == fold.tolist() != dealt(labels, groups, 5, seed=1).tolist()


def test_a_class_of_one_row_is_somewhere() -> None:
    assert sorted(dealt(np.array([0, 0, 0, 1]), None, 2, seed=0).tolist()) == [0, 0, 1, 1]


def test_the_scores_are_those_of_the_pooled_rows() -> None:
    members, labels = made_up(1, rows=120)
    found = estimate(average, members, labels)
    predicted = np.exp(members).mean(0).argmax(1)  # nothing is fitted, so the folds change nothing
    assert found.scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found.scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    for name, (low, high) in found.intervals.items():
        assert low <= found.scores[name] <= high
    again = estimate(average, members, labels)
    assert (again.scores, again.intervals) == (found.scores, found.intervals)


def test_copies_of_pictures_make_an_interval_no_narrower() -> None:
    members, labels = made_up(2, rows=100)
    alone = estimate(average, members, labels)
    copies = estimate(average, members.repeat(4, axis=1), labels.repeat(4), groups=np.arange(100).repeat(4))
    width, of_copies = (np.ptp(each.intervals["accuracy"]) for each in (alone, copies))
    assert copies.scores == pytest.approx(alone.scores)
    assert of_copies == pytest.approx(width, rel=0.2)


@pytest.mark.parametrize("method", ["weighted", "greedy", "stack"])
def test_what_comes_on_fresh_rows_lies_in_the_interval(method: str) -> None:
    members, labels = made_up(3, members=8, rows=4000)
    inside = 0
    for first in range(0, 2400, 400):
        blend, fresh = slice(first, first + 400), slice(2400, 4000)
        found = estimate(METHODS[method], members[:, blend], labels[blend])
        said = METHODS[method](members[:, blend], labels[blend]).apply(members[:, fresh])
        scored = metrics.accuracy(metrics.confusion(labels[fresh], said.argmax(1), 4))
        low, high = found.intervals["accuracy"]
        inside += low <= scored <= high
    assert inside >= 5


def test_a_method_that_learns_its_rows_by_heart_is_not_believed() -> None:
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 2, 200)
    members = np.stack([log_probabilities(draw.normal(size=(200, 2))) for _ in range(300)])
    fitted = METHODS["greedy"](members, labels).apply(members)
    assert (fitted.argmax(1) == labels).mean() > 0.65  # chosen among noise
    low, high = estimate(METHODS["greedy"], members, labels).intervals["accuracy"]
    assert low < 0.5 < high


def test_rows_that_are_all_one_picture_cannot_be_estimated_on() -> None:
    members, labels = made_up(5, rows=10)
    with pytest.raises(DataError, match="10 rows in 1 fold: nothing is left to fit on"):
        estimate(average, members, labels, groups=np.zeros(10, dtype=np.int64))


def test_a_class_of_one_row_is_in_every_resample_that_the_interval_is_made_of() -> None:
    """Drawn without classes, two resamples in five would lack the row, and have two classes in their mean."""
    labels = np.repeat([0, 1, 2], [40, 40, 1])
    sure = np.eye(3)[np.where(labels == 2, 0, labels)]
    found = estimate(average, log_probabilities(5 * sure)[None], labels)
    assert found.scores["macro_f1"] < 2 / 3
    assert found.intervals["macro_f1"][1] <= 2 / 3
