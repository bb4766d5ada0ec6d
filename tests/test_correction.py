"""Corrections as numbers: what is affine is kept, what is not is owned up to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ferbal.correction import Correction, corrected_logits
from ferbal.dataset import Split
from ferbal.errors import RunError
from ferbal.plan import start

LOGITS = np.random.default_rng(0).normal(size=(20, 3)) * 5


def test_what_scales_and_shifts_each_class_is_found_and_kept_in_json() -> None:
    scale, shift = np.array([0.5, 1, 2]), np.array([0.1, -3, 0])
    found = Correction.of(lambda logits: (logits - 1) * scale + shift + scale, LOGITS)
    assert found is not None
    kept = Correction.from_json(json.loads(json.dumps(found.as_json())))
    assert np.allclose(kept.scale, scale)
    assert np.allclose(kept(LOGITS), LOGITS * scale + shift)
    assert not kept.changes_nothing
    assert Correction.none(3).changes_nothing


@pytest.mark.parametrize(
    "adjust",
    [
        lambda logits: np.tanh(logits),
        lambda logits: logits - logits.max(1, keepdims=True),
        lambda logits: logits[:, ::-1],
        lambda logits: logits * np.inf,
    ],
)
def test_what_is_of_another_kind_is_not_taken_for_it(adjust: object) -> None:
    with np.errstate(invalid="ignore"):
        assert Correction.of(adjust, LOGITS) is None  # type: ignore[arg-type]  # parametrize gives it no type


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_finite_numbers_fail_and_are_not_read_as_the_first_class(wrong: float) -> None:
    labels = np.repeat([0, 1], 4)
    val = Split(np.zeros((8, 1, 2, 2), np.uint8), labels, np.arange(8).astype(str), np.arange(8))
    said = np.tile([0.5, -0.5], (8, 1))
    plan = start(("a", "b"), labels, epochs=1)
    logits, _, _ = corrected_logits(plan, {"val": said}, val, np.arange(4), None)
    assert np.array_equal(logits["val"], said)
    said[2, 1] = wrong
    with pytest.raises(RunError, match="logits of 1 of 8 rows of val are no finite numbers"):
        corrected_logits(plan, {"val": said}, val, np.arange(4), None)
