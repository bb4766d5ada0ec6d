"""Ensembles: values by hand for tiny inputs, and laws over random members."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from ferbal.ensemble import METHODS, average, greedy, log_probabilities, stack, weighted

few = settings(max_examples=50, deadline=None)
every_method = pytest.mark.parametrize("method", METHODS)


def members_of(seed: int, members: int = 4, rows: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Members of unequal strength that err together in part, and imbalanced labels that all occur."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.r_[np.arange(classes), generator.geometric(0.5, rows - classes) % classes])
    truth = np.eye(classes)[labels] * generator.uniform(0, 3, size=(members, 1, 1))
    logits = truth + generator.normal(size=(rows, classes)) + generator.normal(size=(members, rows, classes))
    return np.stack([log_probabilities(some) for some in logits]), labels


def logs(*probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities))


def macro_f1(log_p: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(labels, log_p.argmax(1), average="macro"))


# --- log_probabilities


def test_log_probabilities_are_log_softmax_where_nothing_is_tiny() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert log_probabilities(logits) == pytest.approx(scipy.special.log_softmax(logits, axis=1), rel=1e-12)


def test_a_class_a_member_leaves_out_keeps_a_small_probability() -> None:
    said = np.exp(log_probabilities(np.array([[0.0, 0.0, -np.inf], [500.0, 0.0, 0.0]])))
    floor = 1e-6
    assert said[0] == pytest.approx(np.array([0.5, 0.5, floor]) / (1 + floor))
    assert said[1] == pytest.approx(np.array([1, floor, floor]) / (1 + 2 * floor))


# --- average


def test_average_by_hand() -> None:
    members = logs([[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]])
    fitted = average(members, np.array([0, 0]))
    assert np.exp(fitted.apply(members)) == pytest.approx(np.array([[0.4, 0.6], [0.7, 0.3]]))
    assert fitted.weights == pytest.approx([0.5, 0.5])


@few
@given(seed=st.integers(0, 999), order=st.permutations(range(4)))
def test_the_order_of_members_does_not_change_the_average(seed: int, order: list[int]) -> None:
    members, labels = members_of(seed)
    there = average(members, labels).apply(members)
    assert average(members[order], labels).apply(members[order]) == pytest.approx(there, rel=1e-9)


@few
@given(seed=st.integers(0, 999))
def test_the_average_is_no_worse_than_its_mean_member(seed: int) -> None:
    members, labels = members_of(seed)
    alone = [log_loss(labels, np.exp(member)) for member in members]
    assert log_loss(labels, np.exp(average(members, labels).apply(members))) <= np.mean(alone) + 1e-9  # Jensen


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
    members, labels = members_of(seed)
    losses = [log_loss(labels, np.exp(fit(members, labels).apply(members))) for fit in (weighted, average)]
    assert losses[0] <= losses[1] + 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_no_other_convex_mixture_has_a_lower_log_loss_on_blend(seed: int) -> None:
    members, labels = members_of(seed, members=3)
    truth = np.exp(members[:, np.arange(len(labels)), labels])

    def loss(weights: np.ndarray) -> float:
        return float(-np.log(weights @ truth).mean())

    grid = [np.array([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    found = weighted(members, labels).weights
    assert loss(found) <= min(loss(weights) for weights in grid) + 1e-6


# --- greedy


@pytest.mark.parametrize("steps", [2, 3])
def test_greedy_by_hand(steps: int) -> None:
    # The first two members err on different rows and are right together; the third is always wrong.
    # A third step can only unbalance the two (log loss 0.328 -> 0.332), so it is not kept.
    first = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.2, 0.8]]
    second = [[0.4, 0.6], [0.1, 0.9], [0.1, 0.9], [0.3, 0.7]]
    third = [[0.3, 0.7], [0.7, 0.3], [0.6, 0.4], [0.7, 0.3]]
    fitted = greedy(logs(first, second, third), np.array([0, 1, 1, 1]), steps=steps)
    assert fitted.weights == pytest.approx([0.5, 0.5, 0])


def test_greedy_keeps_the_best_prefix() -> None:
    # One member alone is right: with only wrong ones beside it, its weight stays 1 after any number of steps.
    right, wrong = [[0.99, 0.01], [0.01, 0.99]], [[0.4, 0.6], [0.6, 0.4]]
    for steps in (1, 2, 20):
        assert greedy(logs(wrong, right, wrong), np.array([0, 1]), steps=steps).weights == pytest.approx([0, 1, 0])


@few
@given(seed=st.integers(0, 999))
def test_greedy_is_never_worse_than_the_best_single_member_in_macro_f1_on_blend(seed: int) -> None:
    members, labels = members_of(seed)
    together = macro_f1(greedy(members, labels, steps=10).apply(members), labels)
    assert together >= max(macro_f1(member, labels) for member in members) - 1e-12


# --- stack


def test_stack_is_the_ridge_penalised_regression_it_says_it_is() -> None:
    # A class with one row allows no folds, so C is 1e-3: minimise C * sum of log losses + |W|^2 / 2.
    generator = np.random.default_rng(3)
    labels = np.r_[[0] * 12, [1] * 9, [2]]
    members = np.stack([log_probabilities(generator.normal(size=(22, 3)) + np.eye(3)[labels]) for _ in range(2)])
    rows = np.concatenate([members[0], members[1]], axis=1)
    rows = (rows - rows.mean(0)) / rows.std(0)

    def objective(flat: np.ndarray) -> float:
        weights, bias = flat[:18].reshape(6, 3), flat[18:]
        log_p = scipy.special.log_softmax(rows @ weights + bias, axis=1)
        return float(-1e-3 * log_p[np.arange(22), labels].sum() + (weights**2).sum() / 2)

    best = scipy.optimize.minimize(objective, np.zeros(21), method="BFGS", options={"gtol": 1e-7}).x
    expected = scipy.special.softmax(rows @ best[:18].reshape(6, 3) + best[18:], axis=1)
    assert np.exp(stack(members, labels).apply(members)) == pytest.approx(expected, abs=2e-3)


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
    members, _ = members_of(1, rows=30)
    labels = np.r_[np.arange(30 - rare) % 3, [3] * rare]
    said = stack(members, labels).apply(members)
    assert np.isfinite(said).all()
    assert np.exp(said[:, 3]).mean() < np.exp(said[:, 0]).mean()


def test_stack_gives_a_class_that_is_absent_in_blend_next_to_nothing() -> None:
    members, labels = members_of(2)
    labels = np.where(labels == 1, 0, labels)
    said = np.exp(stack(members, labels).apply(members))
    assert said.shape == members.shape[1:]
    assert said[:, 1] == pytest.approx(1e-6, rel=1e-3)
    assert (said[:, [0, 2, 3]] > 1e-4).all()
    assert said.sum(1) == pytest.approx(1, abs=1e-5)


# --- all of them


@every_method
def test_every_method_gives_log_probabilities_of_rows_it_has_not_seen(method: str) -> None:
    members, labels = members_of(5)
    before, (fresh, _) = members.copy(), members_of(6, rows=9)
    fitted = METHODS[method](members, labels)
    said = fitted.apply(fresh)
    assert said.shape == (9, 4)
    assert np.exp(said).sum(1) == pytest.approx(1, abs=1e-5)
    assert members.tolist() == before.tolist()


@pytest.mark.parametrize("method", ["average", "weighted", "greedy"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 5))
def test_weights_are_shares_of_one_and_mix_probabilities(method: str, seed: int, count: int) -> None:
    members, labels = members_of(seed, members=count)
    fitted = METHODS[method](members, labels)
    assert fitted.weights is not None
    assert fitted.weights.shape == (count,)
    assert fitted.weights.sum() == pytest.approx(1)
    assert (fitted.weights >= 0).all()
    mixed = sum(weight * np.exp(member) for weight, member in zip(fitted.weights, members, strict=True))
    assert np.exp(fitted.apply(members)) == pytest.approx(mixed, rel=1e-9)


def test_a_stack_has_no_weights() -> None:
    assert stack(*members_of(0)).weights is None


@every_method
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


@pytest.mark.parametrize("method", ["average", "weighted", "greedy"])
def test_a_single_member_is_its_own_ensemble(method: str) -> None:
    members, labels = members_of(7, members=1)
    fitted = METHODS[method](members, labels)
    assert fitted.weights == pytest.approx([1])
    assert fitted.apply(members) == pytest.approx(members[0])


def test_every_method_that_a_study_may_name_is_here() -> None:
    assert list(METHODS.values()) == [average, weighted, greedy, stack]
    assert list(METHODS) == ["average", "weighted", "greedy", "stack"]
