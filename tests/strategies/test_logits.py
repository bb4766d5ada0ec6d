"""Logit adjustment after training, against Menon et al. 2021 worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.errors import UsageError
from ferbal.plan import Plan, start
from ferbal.recipe import parse
from ferbal.strategies.logits import logit_adjust

few = settings(max_examples=50, deadline=None)

LOGITS = np.array([[2.0, -1.0, 0.5], [0.3, 0.2, -4.0], [-6.0, 3.0, 8.0]])


def plan_of(counts: list[int]) -> Plan:
    labels = np.repeat(np.arange(len(counts)), counts)
    return start(("many", "some", "few", "other")[: len(counts)], labels, epochs=10)


def adjusted(recipe: str, counts: list[int], logits: np.ndarray = LOGITS) -> np.ndarray:
    adjust = parse(recipe)(plan_of(counts)).adjust
    assert adjust is not None
    return adjust(logits)


@pytest.mark.parametrize("tau", [0.25, 1.0, 1.5])
def test_adjusting_subtracts_tau_times_the_log_prior(tau: float) -> None:
    expected = LOGITS - tau * np.log([12 / 17, 4 / 17, 1 / 17])
    assert adjusted(f"logit_adjust({tau})", [12, 4, 1]) == pytest.approx(expected, rel=1e-12)


@few
@given(
    counts=st.lists(st.integers(1, 500), min_size=3, max_size=3),
    likelihood=st.lists(st.floats(0.001, 1), min_size=3, max_size=3),
)
def test_full_adjustment_of_the_true_posterior_leaves_the_likelihood(
    counts: list[int], likelihood: list[float]
) -> None:
    posterior = np.log(np.array(counts) / sum(counts) * likelihood)[None]  # up to a constant: Bayes
    balanced = adjusted("logit_adjust", counts, posterior)
    assert balanced - balanced.max() == pytest.approx(np.log([likelihood]) - np.log(max(likelihood)), abs=1e-9)


def test_tau_zero_changes_nothing() -> None:
    assert adjusted("logit_adjust(0)", [12, 4, 1]).tolist() == LOGITS.tolist()


@pytest.mark.parametrize("balancing", ["oversample", "undersample", "balanced_draw", "deferred(balanced_draw)"])
def test_rows_that_train_in_balance_need_no_adjustment(balancing: str) -> None:
    moved = adjusted(f"{balancing} | logit_adjust", [12, 4, 1]) - LOGITS
    assert np.ptp(moved) == pytest.approx(0, abs=1e-12)  # the same for every class


@pytest.mark.parametrize(
    ("before", "share"),
    [
        ("mirror(below=0.5)", [12, 4, 2]),
        ("oversample(to=0.5)", [12, 6, 6]),
        ("balanced_draw(power=0.5)", [12**0.5, 2, 1]),
        ("oversample(to=0.5) | balanced_draw(power=0.5)", [12**0.5, 6**0.5, 6**0.5]),
    ],
)
def test_the_prior_is_the_one_after_resampling(before: str, share: list[float]) -> None:
    expected = LOGITS - np.log(np.array(share) / sum(share))
    assert adjusted(f"{before} | logit_adjust", [12, 4, 1]) == pytest.approx(expected, rel=1e-9)


def test_after_a_drop_only_the_kept_classes_are_adjusted() -> None:
    expected = LOGITS[:, :2] - np.log([12 / 13, 1 / 13])
    assert adjusted("drop('some') | logit_adjust", [12, 4, 1], LOGITS[:, :2]) == pytest.approx(expected)


def test_adjusting_twice_adds_up() -> None:
    twice = adjusted("logit_adjust(0.25) | logit_adjust(0.5)", [12, 4, 1])
    assert twice == pytest.approx(adjusted("logit_adjust(0.75)", [12, 4, 1]), rel=1e-12)


def test_a_class_that_was_never_seen_is_not_raised() -> None:
    # Its log prior is -inf: subtracted, it would win every row, although the model has never met it.
    before = np.array([[2.0, -1.0, 0.5, -8.0]])
    after = adjusted("logit_adjust", [12, 4, 1, 0], before)
    assert not np.isnan(after).any()
    assert after[0, 3] <= before[0, 3]
    assert after[0, :3] == pytest.approx(before[0, :3] - np.log([12 / 17, 4 / 17, 1 / 17]))


def test_an_unknown_class_stays_unknown_and_the_input_stays_itself() -> None:
    logits = np.array([[1.0, -np.inf, 0.0]])
    after = adjusted("logit_adjust", [12, 4, 1], logits)
    assert after[0, 1] == -np.inf
    assert logits.tolist() == [[1.0, -np.inf, 0.0]]


def test_single_precision_logits_are_taken() -> None:
    single = adjusted("logit_adjust", [12, 4, 1], LOGITS.astype(np.float32))
    assert single == pytest.approx(adjusted("logit_adjust", [12, 4, 1]), rel=1e-5)


def test_the_note_says_by_how_much_each_class_moves() -> None:
    assert parse("logit_adjust")(plan_of([3, 1])).notes == ("logit_adjust: many +0.29, some +1.39",)


@pytest.mark.parametrize("tau", [float("nan"), float("inf")])
def test_a_tau_that_is_no_number_is_refused(tau: float) -> None:
    with pytest.raises(UsageError, match=rf"logit_adjust: tau must be a number but got {tau}"):
        logit_adjust(tau)
