"""Temperature and offsets: they undo what was done by hand, and help on rows they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
from made_members import logs, macro_f1, made_up
from scipy.special import log_softmax

from ferbal import metrics
from ferbal.ensemble import average, greedy, log_probabilities, temperature, tempered, with_offsets
from ferbal.offsets import best_offsets


def drawn(rows: int, seed: int, prior: tuple[float, ...] = (0.6, 0.3, 0.1)) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated log-probabilities, and labels drawn from them."""
    draw = np.random.default_rng(seed)
    said = log_softmax(1.5 * draw.normal(size=(rows, len(prior))) + np.log(prior), axis=1)
    labels = (draw.random(rows)[:, None] > np.exp(said).cumsum(1)).sum(1)
    return said, np.minimum(labels, len(prior) - 1)


@pytest.mark.parametrize("t", [0.5, 1.0, 2.5])
def test_temperature_divides_the_logits_of_a_model_that_is_too_sure(t: float) -> None:
    said, labels = drawn(20_000, 0)
    assert temperature(t * said, labels) == pytest.approx(t, rel=0.05)


def test_temperature_by_hand() -> None:
    # Right in three rows of four with odds 9 : 1. The best odds are 3 : 1, which log 9 / log 3 = 2 gives.
    said = logs([[0.9, 0.1]] * 4)[0]
    assert temperature(said, np.array([0, 0, 0, 1])) == pytest.approx(2, rel=1e-3)


def test_a_tempered_method_lowers_ece_on_rows_held_out_and_moves_no_class() -> None:
    said, labels = drawn(4000, 1)
    noise = np.random.default_rng(2).normal(size=(3, 4000, 3))
    members = np.stack([log_probabilities(2.5 * said + 0.2 * each) for each in noise])
    seen, fresh = members[:, :2000], members[:, 2000:]
    before, after = (fit(seen, labels[:2000]).apply(fresh) for fit in (average, tempered(average)))
    ece = [metrics.expected_calibration_error(np.exp(each), labels[2000:]) for each in (before, after)]
    assert ece[1] < 0.5 * ece[0]
    assert (before.argmax(1) == after.argmax(1)).all()
    assert np.exp(after).sum(1) == pytest.approx(1)


def test_offsets_have_mean_0_and_do_not_depend_on_a_constant() -> None:
    said, labels = drawn(400, 3)
    found = best_offsets(said, labels)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert best_offsets(said + 7.0, labels) == pytest.approx(found)


def test_offsets_raise_macro_f1_on_rows_held_out() -> None:
    gains = []
    for seed in range(5):
        said, labels = drawn(6000, seed, prior=(0.7, 0.27, 0.03))
        found = best_offsets(said[:3000], labels[:3000])
        assert found.argmax() == 2  # the rarest class gains most
        gains.append(macro_f1(said[3000:] + found, labels[3000:]) - macro_f1(said[3000:], labels[3000:]))
    assert min(gains) > 0
    assert np.mean(gains) > 0.01


def test_offsets_are_small_where_there_is_nothing_to_gain() -> None:
    labels = np.arange(300) % 3
    said = log_probabilities(4.0 * np.eye(3)[labels] + 0.1 * np.random.default_rng(0).normal(size=(300, 3)))
    assert np.abs(best_offsets(said, labels)).max() < 0.2


def test_a_class_without_rows_gains_nothing() -> None:
    said, labels = drawn(400, 5)
    labels = np.where(labels == 2, 0, labels)
    assert (said + best_offsets(said, labels)).argmax(1).tolist().count(2) <= said.argmax(1).tolist().count(2)


def test_wrappers_compose_and_keep_the_weights() -> None:
    members, labels = made_up(1, rows=80)
    fitted = with_offsets(tempered(greedy))(members, labels)
    assert fitted.weights == pytest.approx(greedy(members, labels).weights)
    assert np.exp(fitted.apply(members[:, :7])).sum(1) == pytest.approx(1)
