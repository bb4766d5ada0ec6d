"""Weights of rows by their influence on the boundary, against Park et al. 2021 worked in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from three_rows import LOGITS, SOFT, loss_of, plan_of, probabilities, said

from ferbal.errors import UsageError
from ferbal.plan import Strategy, chain
from ferbal.strategies.losses import focal, influence_balanced
from ferbal.strategies.stages import deferred

FEATURES = np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])


def factors(strategy: Strategy, features: np.ndarray = FEATURES, logits: np.ndarray = LOGITS) -> np.ndarray:
    weigh = strategy(plan_of()).stages[-1].weigh
    assert weigh is not None
    z = torch.tensor(logits, requires_grad=True)
    found = weigh(torch.tensor(features), z, torch.tensor(SOFT))
    assert not found.requires_grad
    return found.numpy()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_influence_balanced_is_the_inverse_influence_with_mean_one(power: float) -> None:
    influence = np.abs(probabilities() - SOFT).sum(1) * np.array([3.0, 0.5, 3.0])
    expected = influence**-power / (influence**-power).mean()
    assert factors(influence_balanced(power, most=1e6)) == pytest.approx(expected, rel=1e-9)


def test_a_row_without_influence_weighs_as_one_of_a_tenth_of_the_mean() -> None:
    found = factors(influence_balanced(most=10), features=np.array([[1.0], [0.0], [1.0]]))
    influence = np.abs(probabilities() - SOFT).sum(1) * [1, 0, 1]
    assert found[1] / found[0] == pytest.approx(influence[0] / (influence.mean() / 10))
    assert found.mean() == pytest.approx(1)


def test_influence_balanced_that_does_nothing_and_twice() -> None:
    assert factors(influence_balanced(power=0)).tolist() == [1, 1, 1]
    assert factors(influence_balanced(), features=np.zeros((3, 2))).tolist() == [1, 1, 1]
    once, twice = factors(influence_balanced()), factors(chain(influence_balanced(), influence_balanced()))
    assert twice == pytest.approx(once**2)


def test_influence_balanced_can_wait_and_keeps_the_loss() -> None:
    first, tail = deferred(chain(focal(), influence_balanced()), after=0.5)(plan_of()).stages
    assert first.weigh is None
    assert tail.weigh is not None
    assert said(tail.loss, SOFT) == pytest.approx(said(loss_of(focal()), SOFT))


def test_the_note_says_the_power_and_the_floor_and_the_input_stays() -> None:
    plan = plan_of()
    told = "influence_balanced: rows weighed by influence ** -0.5, floored at 1/4 of its mean"
    assert influence_balanced(0.5, most=4)(plan).notes == (told,)
    assert (plan.notes, plan.stages[0].weigh) == ((), None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"power": -1.0}, "influence_balanced: power must be at least 0 but got -1.0"),
        ({"power": float("nan")}, "but got nan"),
        ({"most": 0.5}, "influence_balanced: most must be at least 1 but got 0.5"),
        ({"most": float("inf")}, "but got inf"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        influence_balanced(**wrong)
    assert message in str(refused.value)
