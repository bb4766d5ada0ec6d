"""What is combined: log-probabilities of members, those that lack a class included."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from ferbal.ensemble import Combined, average, log_probabilities, members_of


def test_log_probabilities_are_log_softmax_where_nothing_is_tiny() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert log_probabilities(logits) == pytest.approx(scipy.special.log_softmax(logits, axis=1), rel=1e-12)


def test_a_class_a_member_leaves_out_keeps_a_small_probability() -> None:
    said = np.exp(log_probabilities(np.array([[0.0, 0.0, -np.inf], [500.0, 0.0, 0.0]])))
    floor = 1e-6
    assert said[0] == pytest.approx(np.array([0.5, 0.5, floor]) / (1 + floor))
    assert said[1] == pytest.approx(np.array([1, floor, floor]) / (1 + 2 * floor))


LACKING = [np.log([[0.5, 0.2, 0.3]]), np.log([[0.2, 0.4, 0.4]]), np.array([[np.log(0.6), -np.inf, np.log(0.4)]])]


def test_on_the_floor_a_member_that_lacks_a_class_pulls_its_share_down() -> None:
    members = members_of(LACKING)
    said = np.exp(average(members, np.array([0])).apply(members))[0]
    assert said == pytest.approx([1.3 / 3, 0.6 / 3, 1.1 / 3], abs=1e-5)


def test_filled_the_class_has_the_share_that_those_who_know_it_give_it() -> None:
    members = members_of(LACKING, unknown="fill")
    assert np.exp(members[2, 0]) == pytest.approx([0.6 * 0.7, 0.3, 0.4 * 0.7], abs=1e-5)
    said = np.exp(average(members, np.array([0])).apply(members))[0]
    assert said == pytest.approx([(0.7 + 0.42) / 3, 0.3, (0.7 + 0.28) / 3], abs=1e-5)


@pytest.mark.parametrize("unknown", ["floor", "fill"])
def test_members_that_lack_different_classes_and_a_class_that_nobody_knows(unknown: str) -> None:
    said = np.exp(members_of([np.array([[0.0, -np.inf, -np.inf]]), np.array([[-np.inf, 0.0, -np.inf]])], unknown))
    assert np.isfinite(said).all()
    assert said.sum(2) == pytest.approx(1)
    assert said[:, :, 2] == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("unknown", ["floor", "fill"])
def test_members_that_know_every_class_are_their_log_probabilities(unknown: str) -> None:
    logits = list(np.random.default_rng(0).normal(size=(3, 9, 4)))
    expected = np.stack([log_probabilities(some) for some in logits])
    assert members_of(logits, unknown) == pytest.approx(expected)


def test_a_correction_comes_after_what_was_there() -> None:
    combined = Combined(lambda members: members[0], None).then(lambda said: said + 1).then(lambda said: said * 2)
    assert combined.apply(np.zeros((1, 2, 3))) == pytest.approx(np.full((2, 3), 2.0))
