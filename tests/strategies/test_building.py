"""What strategies are written with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from three_rows import plan_of

from ferbal.errors import UsageError
from ferbal.plan import Stage
from ferbal.strategies.building import across_stages, class_images, filled_prior, require

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ("in 0..1", [0, 0.5, 1], [-0.1, 1.1]),
        ("in 0.01..100", [0.01, 100.0], [0.009, 100.1]),
        ("at least 0", [0, 1e9], [-1e-9]),
        ("above 0", [1e-9], [0, -1]),
        ("at least 0 and below 1", [0, 0.99], [-0.01, 1.0]),
        ("above 0 and at most 1", [0.01, 1], [0, 1.01]),
        ("whole and at least 1", [1, 3], [0, 1.0, 2.5]),
        ("finite", [-1e300, 0], []),
    ],
)
def test_a_parameter_outside_of_its_limits_is_refused_in_their_words(
    limits: str, inside: list[float], outside: list[float]
) -> None:
    for value in inside:
        require("weird", limits, share=value)
        require("weird", f"{limits}, or None", share=value)
    for wrong in [*outside, NAN, None]:
        with pytest.raises(UsageError) as refused:
            require("weird", limits, first=inside[0], share=wrong)
        assert str(refused.value) == f"weird: share must be {limits} but got {wrong}"
    require("weird", f"{limits}, or None", share=None)
    with pytest.raises(UsageError, match=f"share must be {limits}, or None, but got nan"):
        require("weird", f"{limits}, or None", share=NAN)


def test_infinity_is_within_no_limits_and_unknown_limits_are_an_error() -> None:
    with pytest.raises(UsageError, match="weird: gamma must be finite and at least 0 but got inf"):
        require("weird", "at least 0", gamma=INF)
    with pytest.raises(ValueError, match="no limit 'atleast 0'"):
        require("weird", "atleast 0", gamma=1)


def test_progress_of_a_stage_is_told_as_that_of_them_all() -> None:
    plan = replace(plan_of(np.array([3, 1])), stages=(Stage(6), Stage(2)))
    told = across_stages(plan, lambda stage, overall: replace(stage, radius=overall(0.5)))
    assert [stage.radius for stage in told.stages] == [3 / 8, 7 / 8]


def test_a_class_without_rows_counts_as_the_largest() -> None:
    plan = plan_of(np.array([6, 0, 2]))
    assert filled_prior(plan, plan.stages[0]).tolist() == [0.75, 0.75, 0.25]
    assert class_images(plan.resampled(plan.samples.join(plan.samples), by="twice")).tolist() == [6, 6, 2]
