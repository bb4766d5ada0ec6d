"""Means of members by hand and against scikit-learn, and laws that hold for every method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_members import few, logs, made_up
from sklearn.datasets import make_classification
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from ferbal import ensemble
from ferbal.ensemble import (
    METHODS,
    Combined,
    average,
    average_logits,
    log_probabilities,
    stack,
    stack_boosted,
    weighted,
)
from ferbal.errors import UsageError

Fit = Callable[[np.ndarray, np.ndarray], Combined]
every_method = pytest.mark.parametrize("method", METHODS)


# --- average


def test_average_by_hand() -> None:
    members = logs([[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]])
    fitted = average(members, np.array([0, 0]))
    assert np.exp(fitted.apply(members)) == pytest.approx(np.array([[0.4, 0.6], [0.7, 0.3]]))
    assert fitted.weights == pytest.approx([0.5, 0.5])


@few
@given(seed=st.integers(0, 999), order=st.permutations(range(4)))
def test_the_order_of_members_does_not_change_the_average(seed: int, order: list[int]) -> None:
    members, labels = made_up(seed)
    there = average(members, labels).apply(members)
    assert average(members[order], labels).apply(members[order]) == pytest.approx(there, rel=1e-9)


@few
@given(seed=st.integers(0, 999))
def test_the_average_is_no_worse_than_its_mean_member(seed: int) -> None:
    members, labels = made_up(seed)
    alone = [log_loss(labels, np.exp(member)) for member in members]
    assert log_loss(labels, np.exp(average(members, labels).apply(members))) <= np.mean(alone) + 1e-9  # Jensen


def test_average_is_what_scikit_learn_calls_soft_voting() -> None:
    rows, labels = make_classification(200, n_informative=6, n_classes=3, random_state=0)
    models = [GaussianNB(), LogisticRegression(max_iter=500), DecisionTreeClassifier(max_depth=3, random_state=0)]
    voting = VotingClassifier([(str(k), model) for k, model in enumerate(models)], voting="soft").fit(rows, labels)
    shares = [np.maximum(model.predict_proba(rows), 1e-300) for model in voting.estimators_]
    said = average(np.log(shares), labels).apply(np.log(shares))
    assert np.exp(said) == pytest.approx(voting.predict_proba(rows), rel=1e-9)


def test_average_of_logits_by_hand() -> None:
    # Geometric means sqrt(0.6 * 0.2) and sqrt(0.4 * 0.8), which sum to 0.912.
    members = logs([[0.6, 0.4]], [[0.2, 0.8]])
    fitted = average_logits(members, np.array([0]))
    expected = np.sqrt([0.12, 0.32])
    assert np.exp(fitted.apply(members)[0]) == pytest.approx(expected / expected.sum())
    assert fitted.weights == pytest.approx([0.5, 0.5])


# --- weighted


def test_weighted_by_hand() -> None:
    # Probabilities of the truth: 0.8, 0.8, 0.2 and 0.2, 0.2, 0.8. The mixture's likelihood
    # (0.2 + 0.6 w)^2 (0.8 - 0.6 w) has its maximum where 1.6 - 1.2 w = 0.2 + 0.6 w: w = 7 / 9.
    members = logs([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]], [[0.2, 0.8], [0.2, 0.8], [0.2, 0.8]])
    fitted = weighted(members, np.array([0, 0, 1]))
    assert fitted.weights == pytest.approx([7 / 9, 2 / 9], abs=1e-5)
    expected = 0.8 * 7 / 9 + 0.2 * 2 / 9
    assert np.exp(fitted.apply(members[:, :1])) == pytest.approx(np.array([[expected, 1 - expected]]), abs=1e-5)


def test_a_member_that_is_right_about_everything_takes_all_the_weight() -> None:
    members = logs([[0.99, 0.01], [0.01, 0.99]], [[0.6, 0.4], [0.5, 0.5]], [[0.01, 0.99], [0.99, 0.01]])
    assert weighted(members, np.array([0, 1])).weights == pytest.approx([1, 0, 0], abs=1e-4)


@few
@given(seed=st.integers(0, 999))
def test_weighted_is_never_worse_than_the_average_in_log_loss_on_blend(seed: int) -> None:
    members, labels = made_up(seed)
    losses = [log_loss(labels, np.exp(fit(members, labels).apply(members))) for fit in (weighted, average)]
    assert losses[0] <= losses[1] + 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_no_other_convex_mixture_has_a_lower_log_loss_on_blend(seed: int) -> None:
    members, labels = made_up(seed, members=3)
    truth = np.exp(members[:, np.arange(len(labels)), labels])

    def loss(weights: np.ndarray) -> float:
        return float(-np.log(weights @ truth).mean())

    grid = [np.array([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    found = weighted(members, labels).weights
    assert loss(found) <= min(loss(weights) for weights in grid) + 1e-6


# --- vote


def test_votes_by_hand() -> None:
    # Row by row: two of three against one that is surer; three ways, which the mean decides; all for one class.
    first = [[0.51, 0.49, 0.0], [0.6, 0.4, 0.0], [0.8, 0.1, 0.1]]
    second = [[0.51, 0.49, 0.0], [0.3, 0.7, 0.0], [0.7, 0.2, 0.1]]
    third = [[0.0, 1.0, 0.0], [0.3, 0.2, 0.5], [0.9, 0.1, 0.0]]
    members = ensemble.members_of([np.log(np.maximum(one, 1e-12)) for one in (first, second, third)])
    said = np.exp(ensemble.vote(members, np.zeros(3, dtype=np.int64)).apply(members))
    assert said.argmax(1).tolist() == [0, 1, 0]
    assert said[0] == pytest.approx(np.array([2 + 0.5 * 0.34, 1 + 0.5 * 0.66, 0]) / 3.5, abs=1e-5)
    assert said[1] == pytest.approx(np.array([1 + 0.5 * 0.4, 1 + 0.5 * 1.3 / 3, 1 + 0.5 / 6]) / 3.5, abs=1e-5)
    assert said[2].argsort().tolist() == [2, 1, 0], "without a vote the mean tells the order"
    assert np.isfinite(np.log(said)).all()


@few
@given(seed=st.integers(0, 999))
def test_no_certainty_outdoes_a_vote(seed: int) -> None:
    members, labels = made_up(seed, members=5)
    votes = np.stack([np.bincount(row, minlength=4) for row in members.argmax(2).T])
    said = ensemble.vote(members, labels).apply(members)
    rows = np.arange(len(labels))
    assert (votes[rows, said.argmax(1)] == votes.max(1)).all()


# --- all of them


@every_method
def test_every_method_gives_log_probabilities_of_rows_it_has_not_seen(method: str) -> None:
    members, labels = made_up(5)
    before, (fresh, _) = members.copy(), made_up(6, rows=9)
    fitted = METHODS[method](members, labels)
    said = fitted.apply(fresh)
    assert said.shape == (9, 4)
    assert np.exp(said).sum(1) == pytest.approx(1, abs=1e-5)
    assert members.tolist() == before.tolist()


@pytest.mark.parametrize("method", ["average", "weighted", "greedy", "bagged"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 5))
def test_weights_are_shares_of_one_and_mix_probabilities(method: str, seed: int, count: int) -> None:
    members, labels = made_up(seed, members=count)
    fitted = METHODS[method](members, labels)
    assert fitted.weights is not None
    assert fitted.weights.shape == (count,)
    assert fitted.weights.sum() == pytest.approx(1)
    assert (fitted.weights >= 0).all()
    mixed = sum(weight * np.exp(member) for weight, member in zip(fitted.weights, members, strict=True))
    assert np.exp(fitted.apply(members)) == pytest.approx(mixed, rel=1e-9)


@pytest.mark.parametrize("fit", [stack, stack_boosted])
def test_a_stack_has_no_weights(fit: Fit) -> None:
    assert fit(*made_up(0)).weights is None


@pytest.mark.parametrize("method", [name for name in METHODS if name != "average_logits"])
def test_a_member_without_a_class_does_not_veto_it(method: str) -> None:
    generator = np.random.default_rng(4)
    labels = np.arange(60) % 3
    logits = 9.0 * np.eye(3)[labels] + 0.5 * generator.normal(size=(2, 60, 3))
    logits[1, :, 2] = -np.inf  # trained without the last class, whose rows it divides among the others
    members = np.stack([log_probabilities(some) for some in logits])
    said = METHODS[method](members, labels).apply(members)
    assert np.isfinite(said).all()
    assert (said.argmax(1) == 2)[labels == 2].mean() > 0.9


@every_method
def test_members_that_all_lack_a_class_still_make_an_ensemble(method: str) -> None:
    logits = np.random.default_rng(4).normal(size=(2, 60, 3))
    logits[:, :, 2] = -np.inf
    members = np.stack([log_probabilities(some) for some in logits])
    fitted = METHODS[method](members, np.arange(60) % 3)
    assert np.isfinite(fitted.apply(members)).all()
    assert fitted.weights is None or np.isfinite(fitted.weights).all()


@pytest.mark.parametrize("method", ["average", "weighted", "greedy", "bagged"])
def test_a_single_member_is_its_own_ensemble(method: str) -> None:
    members, labels = made_up(7, members=1)
    fitted = METHODS[method](members, labels)
    assert fitted.weights == pytest.approx([1])
    assert fitted.apply(members) == pytest.approx(members[0])


@pytest.mark.parametrize(
    "name", ["greedy accuracy", "greedy balanced accuracy", "bagged log_loss", "greedy macro-F1"]
)
def test_members_are_picked_for_the_metric_that_is_named(name: str) -> None:
    members, labels = made_up(3)
    first, _, metric = name.partition(" ")
    expected = getattr(ensemble, first)(members, labels, metric.lower().replace(" ", "_").replace("-", "_"))
    assert ensemble.named(name)(members, labels).weights == pytest.approx(expected.weights)
    corrected = ensemble.named(f"{name} + temperature")(members, labels).apply(members)
    assert corrected.argmax(1).tolist() == expected.apply(members).argmax(1).tolist()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "greedy acuracy",
            r"no metric 'acuracy' \(did you mean 'accuracy'\?\); known are macro f1, balanced accuracy",
        ),
        ("stack accuracy", "no method 'stack accuracy'"),
    ],
)
def test_a_metric_that_is_not_known_or_not_asked_for_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ensemble.named(name)


def test_every_method_that_a_study_may_name_is_here() -> None:
    assert all(METHODS[name] is getattr(ensemble, name) for name in METHODS)
