"""Resampling of features: imbalanced-learn's methods on what a frozen backbone makes of the rows."""

from __future__ import annotations

import numpy as np
import pytest

from ferbal.errors import UsageError
from ferbal.plan import start
from ferbal.recipe import parse
from ferbal.strategies.features import __all__ as METHODS

COUNTS = (60, 20, 8)


def clouds(spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNTS)
    return np.eye(5)[labels] * 2 + spread * draw.normal(size=(len(labels), 5)), labels


def resampled(recipe: str, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    plan = parse(f"retrain_head({recipe})")(start(("a", "b", "c"), np.repeat(np.arange(3), COUNTS), epochs=2))
    resample = plan.stages[-1].resample
    assert resample is not None
    return resample(*clouds(spread), 0)


@pytest.mark.parametrize("name", ["smote", "borderline_smote"])
def test_small_classes_are_filled_up_to_the_largest(name: str) -> None:
    x, y = resampled(name)
    assert np.bincount(y).tolist() == [60, 60, 60]
    before, labels = clouds()
    assert np.array_equal(x[: len(before)], before)
    assert np.array_equal(y[: len(labels)], labels)


def test_smote_makes_points_between_rows_of_one_class() -> None:
    x, y = resampled("smote")
    before, labels = clouds()
    made = x[len(before) :][y[len(before) :] == 2]
    rare = before[labels == 2]
    for point in made:
        gaps = [
            np.linalg.norm(point - a) + np.linalg.norm(point - b) - np.linalg.norm(a - b) for a in rare for b in rare
        ]
        assert min(gaps) < 1e-9


def test_adasyn_fills_about_up_and_does_nothing_where_no_other_class_is_near() -> None:
    assert np.bincount(resampled("adasyn")[1]) == pytest.approx([60, 60, 60], abs=6)
    assert np.bincount(resampled("adasyn", spread=0.001)[1]).tolist() == list(COUNTS)


@pytest.mark.parametrize("name", ["tomek_links", "edited_nearest_neighbours", "near_miss"])
def test_cleaning_removes_rows_of_large_classes_only(name: str) -> None:
    x, y = resampled(name)
    counts = np.bincount(y)
    assert counts[2] == 8
    assert counts.sum() < 88
    assert {row.tobytes() for row in x} <= {row.tobytes() for row in clouds()[0]}
    if name == "near_miss":
        assert counts.tolist() == [8, 8, 8]


def test_cleaning_leaves_every_class_some_rows() -> None:
    """Rows of the second class lie among those of the first, which outvote each of them."""
    labels = np.repeat([0, 1, 2], [20, 4, 3])
    plan = parse("retrain_head(edited_nearest_neighbours)")(start(("a", "b", "c"), labels, epochs=2))
    resample = plan.stages[-1].resample
    assert resample is not None
    x = np.concatenate([np.arange(20.0), [2.5, 7.5, 12.5, 17.5], [100, 101, 102]])[:, None]
    assert np.bincount(resample(x, labels, 0)[1])[1:].tolist() == [4, 3]


def test_of_a_link_between_two_larger_classes_both_rows_go() -> None:
    plan = parse("retrain_head(tomek_links)")(start(("a", "b", "c"), np.array([0, 0, 0, 1, 1, 1, 2, 2]), epochs=2))
    resample = plan.stages[-1].resample
    assert resample is not None
    x = np.array([0.0, 1.0, 10.0, 10.1, 21.0, 20.0, 1.1, 30.0])[:, None]  # 10 and 10.1 are a link, 1 and 1.1 another
    kept, labels = resample(x, np.array([0, 0, 0, 1, 1, 1, 2, 2]), 0)
    assert sorted(zip(labels.tolist(), kept[:, 0].tolist(), strict=True)) == [
        (0, 0.0), (1, 20.0), (1, 21.0), (2, 1.1), (2, 30.0)
    ]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_rows(name: str) -> None:
    assert np.array_equal(resampled(name)[0], resampled(name)[0])


def test_a_class_of_one_row_stays_as_it_is() -> None:
    plan = parse("retrain_head(smote)")(start(("a", "b", "c"), np.repeat(np.arange(3), COUNTS), epochs=2))
    resample = plan.stages[-1].resample
    assert resample is not None
    x, y = clouds()
    rows = np.flatnonzero((y != 2) | (np.arange(len(y)) == len(y) - 1))
    assert np.bincount(resample(x[rows], y[rows], 0)[1]).tolist() == [60, 60, 1]


@pytest.mark.parametrize("name", METHODS)
def test_pixels_are_never_resampled_like_this(name: str) -> None:
    with pytest.raises(UsageError, match=rf"write retrain_head\({name}\)"):
        parse(name)(start(("a", "b"), np.array([0, 0, 1]), epochs=2))
