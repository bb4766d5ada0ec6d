"""Resampling of features: imbalanced-learn's methods on what a frozen backbone makes of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ferbal.augment import View
from ferbal.batches import Images, frozen
from ferbal.dataset import Split
from ferbal.errors import UsageError
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.plan import Resample, start
from ferbal.policies import POLICIES
from ferbal.recipe import parse
from ferbal.settings import Training
from ferbal.strategies.features import __all__ as METHODS

COUNTS = (60, 20, 8)


def clouds(spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNTS)
    return np.eye(5)[labels] * 2 + spread * draw.normal(size=(len(labels), 5)), labels


def sampler(recipe: str, labels: np.ndarray) -> Resample:
    plan = parse(f"retrain_head({recipe})")(start(tuple("abcd")[: labels.max() + 1], labels, epochs=2))
    resample = plan.stages[-1].resample
    assert resample is not None
    return resample


def resampled(recipe: str, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return sampler(recipe, np.repeat(np.arange(3), COUNTS))(*clouds(spread), 0)


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


def test_links_leave_every_class_some_rows() -> None:
    """Both rows of the second class are linked to one of the first."""
    x, y = np.array([0, 10, 20, 30, 0.1, 10.1, 100])[:, None], np.repeat([0, 1, 2], [4, 2, 1])
    assert np.bincount(sampler("tomek_links", y)(x, y, 0)[1]).tolist() == [2, 2, 1]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("counts", [(30, 10, 2, 1), (30, 10, 2, 2)])
def test_near_miss_takes_classes_of_one_or_two_rows(version: int, counts: tuple[int, ...]) -> None:
    y = np.repeat(np.arange(4), counts)
    x = np.eye(5)[y] + np.random.default_rng(0).normal(size=(len(y), 5))
    assert np.bincount(sampler(f"near_miss(version={version})", y)(x, y, 0)[1]).tolist() == [counts[-1]] * 4


def test_samplers_act_one_after_the_other() -> None:
    filled, labels = resampled("smote")
    both, theirs = resampled("smote | edited_nearest_neighbours")
    cleaned = sampler("edited_nearest_neighbours", labels)(filled, labels, 0)
    assert len(theirs) < len(labels)
    assert np.array_equal(both, cleaned[0])
    assert np.array_equal(theirs, cleaned[1])


@pytest.mark.parametrize("text", ["smote(k=5.0)", "adasyn(k=0)", "borderline_smote(m=2.5)"])
def test_neighbours_are_counted_in_whole_numbers(text: str) -> None:
    with pytest.raises(UsageError, match=r"must be whole and at least 1 but got|<class .int.>"):
        parse(f"retrain_head({text})")


def test_votes_stay_with_the_rows_that_are_kept() -> None:
    labels = np.repeat([0, 1, 2], [12, 6, 3])
    votes = 0.7 * np.eye(3)[labels] + 0.1
    votes[0] = [0.5, 0.5, 0.0]
    plan = parse("retrain_head(smote(k=2))")(start(("a", "b", "c"), labels, epochs=1, votes=votes))
    pixels = np.random.default_rng(0).integers(0, 256, (21, 1, 16, 16)).astype(np.uint8)
    split = Split(pixels, labels, np.arange(21), np.arange(21), votes)
    view, cpu = View(16, 0.5, 0.25), Machine(torch.device("cpu"))
    net = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    images = Images(split, plan, view, POLICIES["none"], cpu)
    made = frozen(net, images, plan.stages[-1].resample, 0)
    assert made.targets[:21].numpy() == pytest.approx(votes, abs=1e-6)
    assert made.labels[21:].tolist() == [1] * 6 + [2] * 9
    assert made.targets[21:].numpy() == pytest.approx(votes[12:][[0] * 6 + [-1] * 9], abs=1e-6)


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
