"""Losses against their papers' formulas, worked in NumPy float64 for three rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, Stage, Strategy, chain, cross_entropy, start
from ferbal.strategies.losses import focal, label_smoothing, weighted
from ferbal.strategies.rows import balanced_draw

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)

CLASSES = ("many", "some", "one", "none")
COUNTS = np.array([40, 9, 1, 0])

LOGITS = np.array([[2.0, -1.0, 0.5, 0.0], [0.3, 0.2, -4.0, 1.0], [-6.0, 3.0, 8.0, 0.1]])
HARD = np.eye(4)[[0, 2, 1]]
SOFT = np.array([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.4, 0.1]])
TARGETS = {"hard": HARD, "soft": SOFT}

DISGUST, HAPPY = 436, 7215


def plan_of(counts: np.ndarray, epochs: int = 4) -> Plan:
    labels = np.repeat(np.arange(len(counts)), counts)
    return start(tuple(f"class {k}" for k in range(len(counts))), labels, epochs=epochs)


def loss_of(strategy: Strategy, counts: np.ndarray = COUNTS) -> Loss:
    return strategy(plan_of(counts)).stages[-1].loss


def said(loss: Loss, targets: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return loss(torch.tensor(LOGITS, dtype=dtype), torch.tensor(targets, dtype=dtype)).numpy()


def weights_of(loss: Loss, classes: int) -> np.ndarray:
    """What a loss multiplies the cross-entropy of a row of each class by."""
    even = torch.zeros(classes, classes, dtype=torch.float64)
    return loss(even, torch.eye(classes, dtype=torch.float64)).numpy() / np.log(classes)


def probabilities() -> np.ndarray:
    return np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def entropy(targets: np.ndarray) -> np.ndarray:
    """Cross-entropy of the three rows, by its definition."""
    return -(targets * np.log(probabilities())).sum(1)


def effective(beta: float, counts: np.ndarray) -> np.ndarray:
    """Cui et al. 2019, eq. 4, for the classes that have rows; the others weigh nothing. Mean 1 over rows."""
    weight = np.array([(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts.tolist()])
    return weight * counts.sum() / (counts * weight).sum()


both = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@both
@dtypes
def test_weighted_is_the_inverse_frequency(targets: np.ndarray, dtype: torch.dtype) -> None:
    # w = c / n, and sum(n * w) = N over three classes with rows: c = N / 3
    weight = np.array([50 / 3 / 40, 50 / 3 / 9, 50 / 3 / 1, 0.0])
    expected = (targets @ weight) * entropy(targets)
    assert said(loss_of(weighted()), targets, dtype) == pytest.approx(expected, rel=1e-5)


@both
def test_weighted_by_the_square_root(targets: np.ndarray) -> None:
    raw = np.array([1 / np.sqrt(40), 1 / 3, 1.0, 0.0])
    weight = raw * 50 / (np.sqrt(40) + 3 + 1)  # sum(n * n ** -0.5) = sum(sqrt(n))
    expected = (targets @ weight) * entropy(targets)
    assert said(loss_of(weighted(power=0.5)), targets) == pytest.approx(expected, rel=1e-5)


@both
@dtypes
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_weighted_is_class_balanced(targets: np.ndarray, dtype: torch.dtype, beta: float) -> None:
    expected = (targets @ effective(beta, COUNTS)) * entropy(targets)
    assert said(loss_of(weighted(beta=beta)), targets, dtype) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("strategy", "ratio"),
    [
        (weighted(beta=0.99), 1.0),
        (weighted(beta=0.999), 2.8),
        (weighted(beta=0.9999), 12.1),
        (weighted(), 16.5),
        (weighted(power=0.5), 4.07),  # sqrt(16.5)
    ],
)
def test_disgust_weighs_on_fer2013_as_published(strategy: Strategy, ratio: float) -> None:
    fer2013 = np.array([3995, DISGUST, 4097, HAPPY, 4830, 3171, 4965])
    weight = weights_of(loss_of(strategy, fer2013), 7)
    assert weight[1] / weight[3] == pytest.approx(ratio, abs=0.06)


counts_of = st.lists(st.integers(0, 500), min_size=2, max_size=7).filter(lambda n: sum(n) > 0)
kinds = st.builds(weighted, power=st.floats(0, 2)) | st.builds(
    weighted, beta=st.floats(0, 0.9999) | st.sampled_from([0.99, 0.999])
)


@few
@given(counts=counts_of, strategy=kinds)
def test_weights_have_mean_one_over_the_rows(counts: list[int], strategy: Strategy) -> None:
    weight = weights_of(loss_of(strategy, np.array(counts)), len(counts))
    assert np.average(weight, weights=counts) == pytest.approx(1)
    assert (weight[np.array(counts) == 0] == 0).all()
    assert (weight[np.array(counts) > 0] > 0).all()


@few
@given(counts=counts_of, strategy=kinds, data=st.data())
def test_weights_have_mean_one_over_the_rows_as_drawn(
    counts: list[int], strategy: Strategy, data: st.DataObject
) -> None:
    odds = np.array([data.draw(st.floats(0.01, 100)) for _ in counts])
    plan = plan_of(np.array(counts)).each_stage(lambda stage: dataclasses.replace(stage, odds=odds))
    weight = weights_of(strategy(plan).stages[-1].loss, len(counts))
    assert np.average(weight, weights=odds) == pytest.approx(1)


def test_a_balanced_draw_leaves_nothing_to_weigh() -> None:
    loss = loss_of(chain(balanced_draw(), weighted()), np.array([40, 9, 1]))
    assert weights_of(loss, 3) == pytest.approx([1, 1, 1])


def test_each_stage_is_weighed_by_its_own_draw() -> None:
    plan = plan_of(np.array([30, 10]))
    plan = dataclasses.replace(plan, stages=(Stage(2), Stage(2, odds=np.array([1.0, 1.0]))))
    plain_draw, even_draw = weighted()(plan).stages
    assert weights_of(plain_draw.loss, 2) == pytest.approx([2 / 3, 2])
    assert weights_of(even_draw.loss, 2) == pytest.approx([1, 1])


def test_weights_are_noted_with_their_class() -> None:
    assert weighted()(plan_of(np.array([30, 10]))).notes == ("weighted: class 0 0.67, class 1 2.00",)


@both
@dtypes
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_paper_s_formula(targets: np.ndarray, dtype: torch.dtype, gamma: float) -> None:
    p_true = (targets * probabilities()).sum(1)
    expected = (1 - p_true) ** gamma * entropy(targets)
    assert said(loss_of(focal(gamma)), targets, dtype) == pytest.approx(expected, rel=1e-5)


@both
def test_strategies_that_do_nothing_are_plain(targets: np.ndarray) -> None:
    plain = entropy(targets)
    assert said(cross_entropy, targets) == pytest.approx(plain, rel=1e-12)
    for idle in (focal(gamma=0), label_smoothing(0), weighted(power=0), weighted(beta=0)):
        # the class without rows is weighed with nothing, so it is left out of the comparison
        counts = np.array([40, 9, 1, 1])
        assert said(loss_of(idle, counts), targets) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_gradient_at_full_confidence(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0], [-200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    targets = torch.eye(4)[[0, 0]]
    loss_of(focal(gamma))(logits, targets).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 0] < 0  # the row that is utterly wrong still pulls


@both
@dtypes
def test_label_smoothing_mixes_the_target_with_an_even_one(targets: np.ndarray, dtype: torch.dtype) -> None:
    expected = 0.8 * entropy(targets) + 0.2 * entropy(np.full((3, 4), 0.25))
    assert said(loss_of(label_smoothing(0.2)), targets, dtype) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_that_of_torch() -> None:
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor([0, 2, 1]), reduction="none", label_smoothing=0.1
    )
    assert said(loss_of(label_smoothing()), HARD) == pytest.approx(expected.numpy(), rel=1e-12)


@both
def test_the_wrapper_applied_last_sees_the_targets_first(targets: np.ndarray) -> None:
    smooth = 0.8 * targets + 0.05
    weight = effective(0.9, COUNTS)

    def easy(targets: np.ndarray) -> np.ndarray:
        return (1 - (targets * probabilities()).sum(1)) ** 2

    orders: dict[str, tuple[Strategy, np.ndarray]] = {
        "smoothing inside": (chain(label_smoothing(0.2), focal()), easy(targets) * entropy(smooth)),
        "smoothing outside": (chain(focal(), label_smoothing(0.2)), easy(smooth) * entropy(smooth)),
        "raw weights": (chain(label_smoothing(0.2), weighted(0.9)), (targets @ weight) * entropy(smooth)),
        "smooth weights": (chain(weighted(0.9), label_smoothing(0.2)), (smooth @ weight) * entropy(smooth)),
        "weights outside": (
            chain(focal(), weighted(0.9)),
            (targets @ weight) * easy(targets) * entropy(targets),
        ),
        "weights inside": (
            chain(weighted(0.9), focal()),
            (targets @ weight) * easy(targets) * entropy(targets),
        ),
    }
    for name, (strategy, expected) in orders.items():
        assert said(loss_of(strategy), targets) == pytest.approx(expected, rel=1e-9), name


ALL = {
    "plain": chain(),
    "weighted": weighted(),
    "class-balanced": weighted(beta=0.999),
    "focal 0": focal(0),
    "focal 0.5": focal(0.5),
    "focal 2": focal(2),
    "label_smoothing": label_smoothing(),
    "all of them": chain(label_smoothing(0.2), weighted(beta=0.9), focal(1.5)),
}
every_loss = pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)


@both
@every_loss
def test_gradients_are_those_of_the_values(strategy: Strategy, targets: np.ndarray) -> None:
    loss, given = loss_of(strategy), torch.tensor(targets)
    logits = torch.tensor(LOGITS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss(z, given), (logits,), raise_exception=True)


@both
@every_loss
def test_a_loss_gives_each_row_its_own_number(strategy: Strategy, targets: np.ndarray) -> None:
    loss = loss_of(strategy)
    together = said(loss, targets)
    assert together.shape == (3,)
    for row in range(3):
        logits, target = torch.tensor(LOGITS[[row]]), torch.tensor(targets[[row]])
        assert loss(logits, target).item() == pytest.approx(together[row], rel=1e-12)


@every_loss
def test_every_stage_is_wrapped_and_the_rest_of_it_stays(strategy: Strategy) -> None:
    plan = plan_of(COUNTS)
    plan = dataclasses.replace(plan, stages=(Stage(2), Stage(3, scope="head")))
    changed = strategy(plan)
    for before, now in zip(plan.stages, changed.stages, strict=True):
        assert (now.epochs, now.scope, now.schedule, now.odds) == (
            before.epochs,
            before.scope,
            before.schedule,
            before.odds,
        )
        assert said(now.loss, SOFT) == pytest.approx(said(loss_of(strategy), SOFT))
    assert changed.samples is plan.samples
    assert len(changed.notes) == (3 if strategy is ALL["all of them"] else int(strategy is not ALL["plain"]))


@pytest.mark.parametrize(
    ("strategy", "wrong", "message"),
    [
        (weighted, {"beta": 1.0}, "weighted: beta must be in 0..1, below 1, but got 1.0"),
        (weighted, {"beta": -0.1}, "but got -0.1"),
        (weighted, {"beta": float("nan")}, "but got nan"),
        (weighted, {"power": -1.0}, "weighted: power cannot be negative but got -1.0"),
        (weighted, {"power": float("nan")}, "but got nan"),
        (focal, {"gamma": -2.0}, "focal: gamma cannot be negative but got -2.0"),
        (focal, {"gamma": float("nan")}, "but got nan"),
        (label_smoothing, {"amount": 1.0}, "label_smoothing: amount must be in 0..1, below 1, but got 1.0"),
        (label_smoothing, {"amount": -0.5}, "but got -0.5"),
        (label_smoothing, {"amount": float("nan")}, "but got nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    strategy: type[Strategy], wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        strategy(**wrong)
    assert message in str(refused.value)
