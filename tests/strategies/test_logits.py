"""Logit adjustment after training, against Menon et al. 2021 worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal import metrics
from ferbal.correction import corrections
from ferbal.dataset import Split
from ferbal.errors import UsageError
from ferbal.plan import LinearClassifier, Plan, start
from ferbal.recipe import parse
from ferbal.strategies.logits import best_offsets, class_offsets, logit_adjust, tau_norm

few = settings(max_examples=50, deadline=None)

LOGITS = np.array([[2.0, -1.0, 0.5], [0.3, 0.2, -4.0], [-6.0, 3.0, 8.0]])


def plan_of(counts: list[int]) -> Plan:
    labels = np.repeat(np.arange(len(counts)), counts)
    return start(("many", "some", "few", "other")[: len(counts)], labels, epochs=10, allow_double_correction=True)


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
    with pytest.raises(UsageError, match=rf"logit_adjust: tau must be finite, or None, but got {tau}"):
        logit_adjust(tau)


def blend(shift: np.ndarray, rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Logits that would be right if `shift` were subtracted, of a problem with some noise; and labels."""
    draw = np.random.default_rng(0)
    labels = draw.choice(3, rows, p=[0.8, 0.15, 0.05])
    return 2.5 * np.eye(3)[labels] + draw.normal(size=(rows, 3)) + shift, labels


def f1(logits: np.ndarray, labels: np.ndarray) -> float:
    return metrics.macro_f1(metrics.confusion(labels, logits.argmax(1), 3))


def test_a_tau_that_is_not_given_is_the_best_of_the_grid_on_blend() -> None:
    plan = logit_adjust(tau=None)(plan_of([80, 15, 5]))
    assert plan.adjust is None
    log_prior = np.log([0.80, 0.15, 0.05])
    logits, labels = blend(0.7 * log_prior)
    adjust, note = plan.fits[0](logits, labels, None)
    scores = {tau: f1(logits - tau * log_prior, labels) for tau in np.round(np.arange(0, 2.01, 0.1), 1)}
    best = max(scores, key=lambda tau: scores[tau])
    assert note == f"logit_adjust: tau {best:g}"
    assert adjust(logits) == pytest.approx(logits - best * log_prior)
    assert 0.3 <= best <= 1.2


def test_tau_norm_divides_the_weights_and_drops_the_bias() -> None:
    draw = np.random.default_rng(0)
    features, weight, bias = draw.normal(size=(5, 4)), draw.normal(size=(3, 4)), draw.normal(size=3)
    head = LinearClassifier(np.linalg.norm(weight, axis=1), bias)
    adjust, note = tau_norm(tau=0.7)(plan_of([9, 3, 1])).fits[0](features @ weight.T, np.array([0, 1, 2, 0, 0]), head)
    by_hand = features @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** 0.7).T
    assert adjust(features @ weight.T + bias) == pytest.approx(by_hand, rel=1e-9)
    assert note == "tau_norm: tau 0.7"


def test_tau_norm_wants_one_plain_classifier_and_to_come_first() -> None:
    for recipe in ("ldam | tau_norm", "tau_norm | ldam", "experts | tau_norm", "learn_scales | tau_norm"):
        with pytest.raises(UsageError, match="one plain linear classifier"):
            parse(recipe)(plan_of([9, 3, 1]))
    with pytest.raises(UsageError, match="comes before what corrects its logits"):
        parse("class_offsets | tau_norm")(plan_of([9, 3, 1]))


def test_offsets_find_what_was_taken_away() -> None:
    logits, labels = blend(np.array([0.0, -1.5, -2.0]))
    offsets = best_offsets(logits, labels)
    assert f1(logits + offsets, labels) > f1(logits, labels) + 0.05
    assert offsets.mean() == pytest.approx(0)
    assert offsets[0] < min(offsets[1:])


def test_offsets_do_not_depend_on_the_order_of_the_classes() -> None:
    logits, labels = blend(np.array([0.0, -1.5, -2.0]))
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        moved = best_offsets(logits[:, order], np.argsort(order)[labels])
        assert f1(logits[:, order] + moved, np.argsort(order)[labels]) == pytest.approx(
            f1(logits + best_offsets(logits, labels), labels), abs=0.01
        )


def test_what_is_not_fitted_comes_in_its_turn_too() -> None:
    draw = np.random.default_rng(0)
    head = LinearClassifier(draw.uniform(0.5, 2, 3), draw.normal(size=3))
    plan = parse("tau_norm(tau=1) | logit_adjust(tau=1)")(plan_of([12, 4, 1]))
    assert plan.adjust is None
    val = Split(np.zeros((3, 1, 1, 1), np.uint8), np.arange(3), np.arange(3), np.arange(3))
    adjust, _ = corrections(plan, LOGITS, val, np.arange(3), head)
    expected = (LOGITS - head.bias) / head.norms - np.log([12 / 17, 4 / 17, 1 / 17])
    assert adjust(LOGITS) == pytest.approx(expected, rel=1e-12)


def test_offsets_come_after_what_was_fitted_before() -> None:
    plan = parse("logit_adjust(tau=None) | class_offsets")(plan_of([80, 15, 5]))
    assert len(plan.fits) == 2
    assert plan.notes[-1] == "class_offsets: will be fitted on blend"
    assert class_offsets()(plan_of([8, 1, 1])).rebalancings == ()
