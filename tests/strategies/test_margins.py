"""Losses that move logits, against their papers' formulas worked in NumPy float64 for three rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from three_rows import COUNTS, HARD, LOGITS, SOFT, both, dtypes, entropy, loss_of, plan_of, probabilities, said

from ferbal.errors import UsageError
from ferbal.plan import Head, Stage, Strategy, chain, cross_entropy
from ferbal.strategies.losses import focal, label_smoothing, weighted
from ferbal.strategies.margins import balanced_softmax, cdt, ldam, logit_adjusted_loss, seesaw, vector_scaling
from ferbal.strategies.rows import balanced_draw
from ferbal.strategies.stages import deferred

few = settings(max_examples=50, deadline=None)

N = np.where(COUNTS > 0, COUNTS, 40.0)  # the class without rows counts as the largest
LOG_PRIOR = np.log(N / 50)
MARGINS = 0.5 * N**-0.25  # Cao et al. 2019, eq. 13: C * n ** -1/4, and the class of one row has 0.5


def seesaw_factors(z: np.ndarray, i: int, p: float, q: float) -> np.ndarray:
    """S_ij of Wang et al. 2021, eq. 5-7, for one row of class i."""
    sigma = np.exp(z) / np.exp(z).sum()
    mitigation = [(N[j] / N[i]) ** p if N[i] > N[j] else 1.0 for j in range(4)]
    compensation = [(sigma[j] / sigma[i]) ** q if sigma[j] > sigma[i] else 1.0 for j in range(4)]
    return np.array(mitigation) * compensation


def seesawn(targets: np.ndarray, p: float, q: float, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Logits whose softmax is the paper's; a soft target mixes the logarithms of S."""
    return np.array(
        [
            z + sum(t * np.log(seesaw_factors(z, i, p, q)) for i, t in enumerate(row))
            for z, row in zip(logits, targets, strict=True)
        ]
    )


Moved = Callable[[np.ndarray], np.ndarray]
PAPERS: dict[str, tuple[Strategy, Moved]] = {
    "balanced_softmax": (balanced_softmax(), lambda t: np.log(N / 50 * np.exp(LOGITS))),
    "logit_adjusted_loss": (logit_adjusted_loss(1.5), lambda t: LOGITS + 1.5 * LOG_PRIOR),
    "vector_scaling": (vector_scaling(0.3, 0.75), lambda t: LOGITS * (N / 40) ** 0.3 + 0.75 * LOG_PRIOR),
    "cdt": (cdt(0.2), lambda t: LOGITS / (40 / N) ** 0.2),
    "ldam": (ldam(0.5, 30), lambda t: LOGITS - 30 * t * MARGINS),
    "seesaw": (seesaw(), lambda t: seesawn(t, 0.8, 2)),
    "seesaw without compensation": (seesaw(p=0.5, q=0), lambda t: seesawn(t, 0.5, 0)),
    "seesaw without mitigation": (seesaw(p=0, q=1), lambda t: seesawn(t, 0, 1)),
}
every = pytest.mark.parametrize(("strategy", "moved"), PAPERS.values(), ids=PAPERS)


@both
@dtypes
@every
def test_the_loss_is_the_paper_s_formula(
    strategy: Strategy, moved: Moved, targets: np.ndarray, dtype: torch.dtype
) -> None:
    expected = entropy(targets, moved(targets))
    assert said(loss_of(strategy), targets, dtype) == pytest.approx(expected, rel=1e-5)


def test_seesaw_is_the_paper_s_softmax() -> None:
    z, expected = LOGITS, []
    for row, i in enumerate((0, 2, 1)):
        s = seesaw_factors(z[row], i, 0.8, 2)
        others = sum(s[j] * np.exp(z[row, j]) for j in range(4) if j != i)
        expected.append(-np.log(np.exp(z[row, i]) / (others + np.exp(z[row, i]))))
    assert said(loss_of(seesaw()), HARD) == pytest.approx(np.array(expected), rel=1e-9)


def test_ldam_is_the_authors_loss_over_cosines() -> None:
    # of cosines x the paper takes CE(s * (x - m)); the head gives z = s * x, which are the paper's logits too
    cosines, s = LOGITS / 10, 8.0
    expected = entropy(HARD, s * (cosines - HARD * MARGINS))
    found = loss_of(ldam(0.5, s))(torch.tensor(s * cosines), torch.tensor(HARD))
    assert found.numpy() == pytest.approx(expected, rel=1e-9)


@both
@pytest.mark.parametrize("name", PAPERS)
def test_gradients_are_those_of_the_values(name: str, targets: np.ndarray) -> None:
    """Seesaw's S is held constant, so its gradient is that of cross-entropy over the moved logits alone."""
    strategy, moved = PAPERS[name]
    loss, wanted = loss_of(strategy), torch.tensor(targets)
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss(logits, wanted).sum().backward()
    slope = (N / 40) ** {"vector_scaling": 0.3, "cdt": 0.2}.get(name, 0.0)
    expected = slope * (probabilities(moved(targets)) - targets)
    assert logits.grad.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if name not in {"seesaw", "seesaw without mitigation"}:
        assert torch.autograd.gradcheck(lambda z: loss(z, wanted), (logits,), raise_exception=True)


@both
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (logit_adjusted_loss(tau=0), chain()),
        (vector_scaling(gamma=0, tau=0.7), logit_adjusted_loss(tau=0.7)),
        (vector_scaling(gamma=0.3, tau=0), cdt(gamma=0.3)),
        (cdt(gamma=0), chain()),
        (ldam(max_margin=0), chain()),
        (seesaw(p=0, q=0), chain()),
        (chain(logit_adjusted_loss(0.25), logit_adjusted_loss(0.5)), logit_adjusted_loss(0.75)),
    ],
)
def test_one_is_the_other(one: Strategy, other: Strategy, targets: np.ndarray) -> None:
    assert said(loss_of(one), targets) == pytest.approx(said(loss_of(other), targets), rel=1e-12)


@both
@pytest.mark.parametrize("strategy", [balanced_softmax(), vector_scaling(), cdt(), seesaw(q=0)])
def test_a_balanced_draw_leaves_no_prior_to_correct(strategy: Strategy, targets: np.ndarray) -> None:
    loss = loss_of(chain(balanced_draw(), strategy), np.array([40, 9, 1, 1]))
    assert said(loss, targets) == pytest.approx(entropy(targets), rel=1e-9)


@few
@given(
    counts=st.lists(st.integers(1, 500), min_size=4, max_size=4),
    posterior=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    tau=st.floats(0, 2),
)
def test_an_adjusted_loss_is_least_at_the_posterior_less_the_prior(
    counts: list[int], posterior: list[float], tau: float
) -> None:
    chance, prior = np.array(posterior) / sum(posterior), np.array(counts) / sum(counts)
    logits = torch.tensor(np.log(chance) - tau * np.log(prior)).requires_grad_()
    loss_of(logit_adjusted_loss(tau), np.array(counts))(logits[None], torch.tensor(chance[None])).sum().backward()
    assert logits.grad.numpy() == pytest.approx(np.zeros(4), abs=1e-12)


@every
def test_no_logit_is_too_large_and_no_class_too_small(strategy: Strategy, moved: Moved) -> None:
    far = torch.tensor([[300.0, 0, 0, 0], [-300.0, 0, 0, 300], [0, 300, -300, 0]], requires_grad=True)
    for targets in (torch.eye(4)[[0, 2, 1]], torch.eye(4)[[1, 1, 2]], torch.full((3, 4), 0.25)):
        loss = loss_of(strategy)(far, targets)
        (slope,) = torch.autograd.grad(loss.sum(), far)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(slope).all()


@every
def test_a_class_that_is_never_drawn_is_pushed_down_as_the_largest_is(strategy: Strategy, moved: Moved) -> None:
    even = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    loss_of(strategy)(even, torch.eye(4, dtype=torch.float64)[[1]]).sum().backward()
    assert even.grad[0, 3] > 0
    assert even.grad[0, 3] == pytest.approx(even.grad[0, 0])


def test_each_stage_is_moved_by_its_own_prior() -> None:
    plan = dataclasses.replace(plan_of(), stages=(Stage(2), Stage(2, odds=np.array([1.0, 1, 1, 1]))))
    drawn, even = balanced_softmax()(plan).stages
    assert said(drawn.loss, SOFT) == pytest.approx(entropy(SOFT, LOGITS + LOG_PRIOR))
    assert said(even.loss, SOFT) == pytest.approx(entropy(SOFT))


@both
def test_what_is_applied_last_sees_the_logits_first(targets: np.ndarray) -> None:
    def easy(logits: np.ndarray) -> np.ndarray:
        return (1 - (targets * probabilities(logits)).sum(1)) ** 2

    moved, smooth = LOGITS + LOG_PRIOR, 0.8 * targets + 0.05
    orders: dict[str, tuple[Strategy, np.ndarray]] = {
        "focal by moved logits": (chain(focal(), balanced_softmax()), easy(moved) * entropy(targets, moved)),
        "focal by the model's": (chain(balanced_softmax(), focal()), easy(LOGITS) * entropy(targets, moved)),
        "scaled, then shifted": (chain(balanced_softmax(), cdt(1)), entropy(targets, LOGITS * N / 40 + LOG_PRIOR)),
        "shifted, then scaled": (chain(cdt(1), balanced_softmax()), entropy(targets, moved * N / 40)),
        "margin of hard targets": (
            chain(label_smoothing(0.2), ldam(0.5, 2)),
            entropy(smooth, LOGITS - 2 * targets * MARGINS),
        ),
        "margin of smooth targets": (
            chain(ldam(0.5, 2), label_smoothing(0.2)),
            entropy(smooth, LOGITS - 2 * smooth * MARGINS),
        ),
    }
    for name, (strategy, expected) in orders.items():
        assert said(loss_of(strategy), targets) == pytest.approx(expected, rel=1e-9), name


def test_ldam_asks_for_a_cosine_head_of_its_scale_and_keeps_the_copies() -> None:
    plan = dataclasses.replace(plan_of(), head=Head(copies=3))
    assert ldam(scale=16)(plan).head == Head("cosine", copies=3, scale=16)
    assert plan.head == Head("linear", copies=3)


def test_ldam_with_deferred_weights_keeps_its_head_and_margins() -> None:
    plan = chain(ldam(), deferred(weighted(beta=0.9)))(plan_of())
    assert plan.head == Head("cosine", scale=30)
    ratio = said(plan.stages[1].loss, HARD) / said(plan.stages[0].loss, HARD)
    assert ratio == pytest.approx(said(loss_of(weighted(beta=0.9)), HARD) / entropy(HARD), rel=1e-9)


def test_ldam_s_margin_on_fer2013_is_as_published() -> None:
    fer2013 = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])
    note = ldam()(plan_of(fer2013)).notes[0]
    assert "class 1 0.50" in note
    assert "class 3 0.25" in note  # 0.5 * (436 / 7215) ** 0.25


@pytest.mark.parametrize(
    ("strategy", "note", "corrected"),
    [
        (balanced_softmax(), "balanced_softmax: class 0 -0.29, class 1 -1.39", "balanced_softmax"),
        (logit_adjusted_loss(0.5), "logit_adjusted_loss: class 0 -0.14, class 1 -0.69", "logit_adjusted_loss"),
        (
            vector_scaling(),
            "vector_scaling: times class 0 1.00, class 1 0.72; plus class 0 -0.29, class 1 -1.39",
            "vector_scaling",
        ),
        (cdt(), "cdt: times class 0 1.00, class 1 0.80", "cdt"),
        (seesaw(), "seesaw: rows of class 0 push class 0 1.00, class 1 0.42; q 2", "seesaw"),
        (ldam(), "ldam: scale 30, margin class 0 0.38, class 1 0.50", ""),
    ],
)
def test_a_strategy_notes_its_numbers_and_whether_it_corrects_the_prior(
    strategy: Strategy, note: str, corrected: str
) -> None:
    plan = plan_of(np.array([30, 10]))
    changed = strategy(plan)
    assert changed.notes == (note,)
    assert [done.by for done in changed.rebalancings] == ([corrected] if corrected else [])
    assert (plan.notes, plan.rebalancings, plan.stages[0].loss, plan.head) == ((), (), cross_entropy, Head())


@pytest.mark.parametrize(
    ("strategy", "wrong", "message"),
    [
        (logit_adjusted_loss, {"tau": -1.0}, "logit_adjusted_loss: tau must be at least 0 but got -1.0"),
        (logit_adjusted_loss, {"tau": float("nan")}, "logit_adjusted_loss: tau must be at least 0 but got nan"),
        (vector_scaling, {"gamma": -0.1}, "vector_scaling: gamma must be at least 0 but got -0.1"),
        (vector_scaling, {"tau": float("inf")}, "vector_scaling: tau must be finite and at least 0 but got inf"),
        (cdt, {"gamma": -2.0}, "cdt: gamma must be at least 0 but got -2.0"),
        (ldam, {"max_margin": -0.5}, "ldam: max_margin must be at least 0 but got -0.5"),
        (ldam, {"scale": 0.0}, "ldam: scale must be above 0 but got 0.0"),
        (seesaw, {"p": -1.0}, "seesaw: p must be at least 0 but got -1.0"),
        (seesaw, {"q": float("nan")}, "seesaw: q must be at least 0 but got nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    strategy: Callable[..., Strategy], wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        strategy(**wrong)
    assert message in str(refused.value)
