"""Greedy selection: by hand, against the algorithm as published, and its bags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from bench import ensemble_speed
from hypothesis import given
from hypothesis import strategies as st
from made_members import few, logs, macro_f1, made_up
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from ferbal.ensemble import bagged, greedy, greedy_path


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
    members, labels = made_up(seed)
    together = macro_f1(greedy(members, labels, steps=10).apply(members), labels)
    assert together >= max(macro_f1(member, labels) for member in members) - 1e-12


@few
@given(seed=st.integers(0, 999), classes=st.integers(2, 5), count=st.integers(1, 6))
def test_greedy_selects_what_the_plain_algorithm_does(seed: int, classes: int, count: int) -> None:
    members, labels = made_up(seed, members=count, rows=60, classes=classes)
    path = greedy_path(members, labels, steps=25)
    assert (path.taken.tolist(), path.best) == ensemble_speed.reference(members, labels, steps=25)


def test_greedy_selects_what_the_plain_algorithm_does_among_many() -> None:
    members, labels = ensemble_speed.made_up(30, rows=700)  # more than one chunk of rows
    path = greedy_path(members, labels, steps=40)
    assert (path.taken.tolist(), path.best) == ensemble_speed.reference(members, labels, steps=40)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "macro_f1": lambda labels, share: macro_f1(share, labels),
    "accuracy": lambda labels, share: accuracy_score(labels, share.argmax(1)),
    "balanced_accuracy": lambda labels, share: balanced_accuracy_score(labels, share.argmax(1)),
    "log_loss": lambda labels, share: log_loss(labels, share),
}


@pytest.mark.parametrize("metric", SCORES)
def test_the_path_has_the_scores_that_scikit_learn_gives_its_prefixes(metric: str) -> None:
    members, labels = made_up(3, rows=80)
    path = greedy_path(members, labels, metric, steps=12)
    for length in range(1, 13):
        share = np.exp(members[path.taken[:length]]).mean(0)
        assert path.scores[length - 1] == pytest.approx(SCORES[metric](labels, share))
    kept = path.scores[path.best - 1]
    assert kept == pytest.approx(path.scores.min() if metric == "log_loss" else path.scores.max())


@pytest.mark.parametrize("metric", SCORES)
def test_no_other_member_would_have_been_a_better_step(metric: str) -> None:
    members, labels = made_up(4, rows=80)
    path = greedy_path(members, labels, metric, steps=6)
    sign = -1 if metric == "log_loss" else 1
    for length in range(1, 7):
        before = [*path.taken[: length - 1]]
        others = [np.exp(members[[*before, m]]).mean(0) for m in range(len(members))]
        best = max(sign * SCORES[metric](labels, share) for share in others)
        assert sign * path.scores[length - 1] == pytest.approx(best)


def test_bags_average_selections_and_follow_their_seed() -> None:
    members, labels = made_up(11, members=8, rows=80)
    one, same, other = (bagged(members, labels, bags=3, seed=seed).weights for seed in (0, 0, 1))
    assert one.tolist() == same.tolist() != other.tolist()
    assert (bagged(members, labels, bags=25).weights > 0).sum() > (greedy(members, labels).weights > 0).sum()


def test_one_bag_of_all_members_is_greedy() -> None:
    members, labels = made_up(12)
    whole = partial(bagged, bags=1, share=1.0)
    assert whole(members, labels).weights.tolist() == greedy(members, labels).weights.tolist()
