"""Stacks: the regressions they say they are, and no worse than the average where there is nothing to learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from made_members import macro_f1, made_up
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ferbal.ensemble import Combined, average, log_probabilities, stack, stack_boosted


def test_stack_minimises_the_loss_that_its_docstring_says() -> None:
    members, labels = made_up(10, members=2, rows=50, classes=3)
    base = average(members, labels).apply(members)
    weights = np.bincount(labels)[labels] ** -0.5
    weights /= weights.sum()

    def said(theta: np.ndarray) -> np.ndarray:
        logits = theta[0] * base + np.tensordot(theta[1:3], members, 1) + theta[3:]
        return scipy.special.log_softmax(logits, axis=1)

    def objective(theta: np.ndarray) -> float:
        pull = 1e-3 * (theta[0] - 1) ** 2 + 2 * 0.1 * (theta[1:3] ** 2).sum() + 1e-3 * (theta[3:] ** 2).sum()
        return float(-(weights * said(theta)[np.arange(50), labels]).sum() + pull / 2)

    best = scipy.optimize.minimize(objective, np.r_[1, np.zeros(5)], method="BFGS", options={"gtol": 1e-7}).x
    assert stack(members, labels, strength=0.1).apply(members) == pytest.approx(said(best), abs=5e-3)


def test_a_strong_pull_leaves_the_average_but_for_a_temperature_and_offsets() -> None:
    members, labels = made_up(11, rows=80)
    said = stack(members, labels, strength=1e6).apply(members)
    plain = average(members, labels).apply(members)
    flat = [(some - some[:, :1])[:, 1:] for some in (said, plain)]
    for ours, theirs in zip(flat[0].T, flat[1].T, strict=True):
        slope, intercept = np.polyfit(theirs, ours, 1)
        assert ours == pytest.approx(slope * theirs + intercept, abs=1e-3)


@pytest.mark.parametrize("fit", [stack, stack_boosted])
def test_with_members_that_are_all_alike_a_stack_keeps_up_with_the_average(fit: Callable[..., Combined]) -> None:
    # 16 members of equal strength: what a stack finds between them is noise.
    draw = np.random.default_rng(2)
    labels = draw.choice(4, 1200, p=[0.5, 0.3, 0.15, 0.05])
    common = 1.5 * np.eye(4)[labels] + draw.normal(size=(1200, 4))
    members = np.stack([log_probabilities(common + draw.normal(size=(1200, 4))) for _ in range(16)])
    seen, fresh = members[:, :600], members[:, 600:]
    theirs = macro_f1(average(seen, labels[:600]).apply(fresh), labels[600:])
    assert macro_f1(fit(seen, labels[:600]).apply(fresh), labels[600:]) > theirs - 0.02


def test_stack_keeps_the_rare_classes_that_the_textbooks_stack_loses() -> None:
    # A dozen members that favour rare classes, and few rows: the textbook's has a weight for every third row.
    draw = np.random.default_rng(5)
    prior = np.array([0.5, 0.25, 0.12, 0.08, 0.05])
    labels = draw.choice(5, 5000, p=prior)
    common = 1.5 * np.eye(5)[labels] + draw.normal(size=(5000, 5))
    members = np.stack([log_probabilities(common + draw.normal(size=(5000, 5))) for _ in range(12)])
    rows = np.concatenate(list(members), axis=1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(rows[:900], labels[:900])
    plain = macro_f1(average(members, labels).apply(members[:, 900:]), labels[900:])
    ours = stack(members[:, :900], labels[:900])
    assert macro_f1(theirs.predict_log_proba(rows[900:]), labels[900:]) < plain
    assert macro_f1(ours.apply(members[:, 900:]), labels[900:]) > plain


def test_balance_favours_rare_classes() -> None:
    members, labels = made_up(13, rows=200)
    rare = np.bincount(labels).argmin()
    shares = [np.exp(stack(members, labels, balance=b).apply(members))[:, rare].mean() for b in (0.0, 0.5, 1.0)]
    assert shares[0] < shares[1] < shares[2]


def test_stack_learns_whom_to_believe() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    good = np.where(np.eye(2)[labels] == 1, 2.0, -2.0) + generator.normal(size=(200, 2))
    # The second member has the two classes mixed up, which no convex mixture can mend.
    members = np.stack([log_probabilities(0.1 * good), log_probabilities(-2 * good)])
    said = stack(members, labels).apply(members)
    assert (said.argmax(1) == labels).mean() > 0.95
    assert (average(members, labels).apply(members).argmax(1) == labels).mean() < 0.5


@pytest.mark.parametrize("rare", [1, 2, 3])
def test_stack_takes_a_class_with_few_rows(rare: int) -> None:
    members, _ = made_up(1, rows=30)
    labels = np.r_[np.arange(30 - rare) % 3, [3] * rare]
    said = stack(members, labels).apply(members)
    assert np.isfinite(said).all()
    assert np.exp(said[:, 3]).mean() < np.exp(said[:, 0]).mean()


def test_stack_gives_a_class_that_is_absent_in_blend_next_to_nothing() -> None:
    members, labels = made_up(2)
    labels = np.where(labels == 1, 0, labels)
    said = np.exp(stack(members, labels).apply(members))
    assert said.shape == members.shape[1:]
    assert said[:, 1] == pytest.approx(1e-6, rel=1e-3)
    assert (said[:, [0, 2, 3]].mean(0) > 0.05).all()
    assert said.sum(1) == pytest.approx(1, abs=1e-5)


def test_a_blend_of_one_class_leaves_boosting_nothing_to_do() -> None:
    members, _ = made_up(0, rows=6)
    labels = np.zeros(6, dtype=np.int64)
    assert np.array_equal(stack_boosted(members, labels).apply(members), average(members, labels).apply(members))
