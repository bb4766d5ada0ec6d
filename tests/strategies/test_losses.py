"""Losses against their papers' formulas, worked in NumPy float64 for three rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from three_rows import COUNTS, HARD, LOGITS, SOFT, both, dtypes, entropy, loss_of, plan_of, probabilities, said

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, Stage, Strategy, chain, cross_entropy, split, start
from ferbal.strategies.features import smote
from ferbal.strategies.losses import (
    distillation,
    focal,
    generalised_cross_entropy,
    label_aware_smoothing,
    label_smoothing,
    self_distillation,
    soft_f1,
    weighted,
)
from ferbal.strategies.margins import ldam
from ferbal.strategies.mixing import mixup
from ferbal.strategies.rows import balanced_draw, drop, merge, mirror, oversample
from ferbal.strategies.stages import deferred, retrain_head

DISGUST, HAPPY = 436, 7215


def weights_of(loss: Loss, classes: int) -> np.ndarray:
    """What a loss multiplies the cross-entropy of a row of each class by."""
    even = torch.zeros(classes, classes, dtype=torch.float64)
    return loss(even, torch.eye(classes, dtype=torch.float64)).numpy() / np.log(classes)


def effective(beta: float, counts: np.ndarray) -> np.ndarray:
    """Cui et al. 2019, eq. 4, for the classes that have rows; the others weigh nothing. Mean 1 over rows."""
    weight = np.array([(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts.tolist()])
    return weight * counts.sum() / (counts * weight).sum()


@both
@dtypes
def test_weighted_is_the_inverse_frequency(targets: np.ndarray, dtype: torch.dtype) -> None:
    # w = c / n, and sum(n * w) = N over three classes with rows: c = N / 3
    weight = np.array([50 / 3 / 40, 50 / 3 / 9, 50 / 3 / 1, 0.0])
    expected = entropy(targets * weight)
    assert said(loss_of(weighted()), targets, dtype) == pytest.approx(expected, rel=1e-5)


@both
def test_weighted_by_the_square_root(targets: np.ndarray) -> None:
    raw = np.array([1 / np.sqrt(40), 1 / 3, 1.0, 0.0])
    weight = raw * 50 / (np.sqrt(40) + 3 + 1)  # sum(n * n ** -0.5) = sum(sqrt(n))
    expected = entropy(targets * weight)
    assert said(loss_of(weighted(power=0.5)), targets) == pytest.approx(expected, rel=1e-5)


@both
@dtypes
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_weighted_is_class_balanced(targets: np.ndarray, dtype: torch.dtype, beta: float) -> None:
    expected = entropy(targets * effective(beta, COUNTS))
    assert said(loss_of(weighted(beta=beta)), targets, dtype) == pytest.approx(expected, rel=1e-5)


@both
def test_weighted_is_torch_s_own_weighted_cross_entropy(targets: np.ndarray) -> None:
    weight = torch.tensor(effective(0.9, COUNTS))
    theirs = F.cross_entropy(torch.tensor(LOGITS), torch.tensor(targets), weight=weight, reduction="none")
    assert said(loss_of(weighted(beta=0.9)), targets) == pytest.approx(theirs.numpy(), rel=1e-9)


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


def test_a_balanced_draw_leaves_nothing_to_weigh() -> None:
    loss = loss_of(chain(balanced_draw(), weighted()), np.array([40, 9, 1]))
    assert weights_of(loss, 3) == pytest.approx([1, 1, 1])


def test_each_stage_is_weighed_by_its_own_draw() -> None:
    plan = plan_of(np.array([30, 10]))
    plan = dataclasses.replace(plan, stages=(Stage(2), Stage(2, odds=np.array([1.0, 1.0]))))
    plain_draw, even_draw = weighted()(plan).stages
    assert weights_of(plain_draw.loss, 2) == pytest.approx([2 / 3, 2])
    assert weights_of(even_draw.loss, 2) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("strategy", "note"),
    [
        (weighted(), "weighted: class 0 0.67, class 1 2.00"),
        (label_aware_smoothing(), "label_aware_smoothing: class 0 0.40, class 1 0.10"),
        (soft_f1(0.5), "soft_f1: 50% of the loss"),
        (generalised_cross_entropy(), "generalised_cross_entropy: (1 - p ** 0.7) / 0.7"),
    ],
)
def test_a_strategy_notes_its_numbers(strategy: Strategy, note: str) -> None:
    plan = plan_of(np.array([30, 10]))
    assert strategy(plan).notes == (note,)
    assert (plan.notes, plan.stages[0].loss) == ((), cross_entropy)


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
    for idle in (
        label_smoothing(0),
        label_aware_smoothing(0, 0),
        soft_f1(0),
        weighted(0),
        weighted(power=0),
    ):
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


def label_aware(targets: np.ndarray, amounts: list[float]) -> np.ndarray:
    """Zhong et al. 2021, eq. 4, for each class a target may be; a soft target is their mixture."""
    each = [[1 - a if i == y else a / 3 for i in range(4)] for y, a in enumerate(amounts)]
    return targets @ np.array(each)


@both
@dtypes
def test_label_aware_smoothing_is_the_paper_s_concave_form(targets: np.ndarray, dtype: torch.dtype) -> None:
    some = 0.1 + 0.3 * np.sin(np.pi * (9 - 1) / (2 * (40 - 1)))
    expected = entropy(label_aware(targets, [0.4, some, 0.1, 0.4]))  # the class without rows is as the largest
    assert said(loss_of(label_aware_smoothing(0.1, 0.4)), targets, dtype) == pytest.approx(expected, rel=1e-5)


@both
def test_label_aware_smoothing_of_classes_of_one_size_is_that_of_the_tail(targets: np.ndarray) -> None:
    loss = loss_of(label_aware_smoothing(0.2, 0.4), np.array([9, 9, 9, 9]))
    assert said(loss, targets) == pytest.approx(entropy(label_aware(targets, [0.2] * 4)), rel=1e-9)


@both
@pytest.mark.parametrize("strategy", [label_aware_smoothing(), ldam()], ids=["smoothing", "margins"])
def test_what_goes_by_images_does_not_hang_on_how_often_they_are_drawn(
    strategy: Strategy, targets: np.ndarray
) -> None:
    alone = said(strategy(plan_of(COUNTS)).stages[-1].loss, targets)
    for other in (deferred(balanced_draw()), oversample(), mirror()):
        for order in (chain(other, strategy), chain(strategy, other)):
            for stage in order(plan_of(COUNTS)).stages:
                assert said(stage.loss, targets) == pytest.approx(alone, rel=1e-9)


@both
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_soft_f1_is_that_of_the_classes_in_the_batch(targets: np.ndarray, share: float) -> None:
    p, f1 = probabilities(), []
    for k in range(4):
        hit, false, missed = (
            sum(a * b for a, b in zip(x, y, strict=True))
            for x, y in ((p[:, k], targets[:, k]), (p[:, k], 1 - targets[:, k]), (1 - p[:, k], targets[:, k]))
        )
        f1 += [2 * hit / (2 * hit + false + missed)] if targets[:, k].any() else []
    expected = share * (1 - np.mean(f1)) + (1 - share) * entropy(targets)
    assert said(loss_of(soft_f1(share)), targets) == pytest.approx(expected, rel=1e-9)


def test_soft_f1_is_zero_without_mistakes_and_finite_with_nothing_else() -> None:
    right, wrong = 200 * torch.eye(4)[:3], (200 * torch.eye(4)[[1, 2, 3]]).requires_grad_()
    assert loss_of(soft_f1())(right, torch.eye(4)[:3]).tolist() == [0, 0, 0]
    loss = loss_of(soft_f1())(wrong, torch.eye(4)[:3])
    loss.sum().backward()
    assert loss.tolist() == [1, 1, 1]
    assert torch.isfinite(wrong.grad).all()


@both
@dtypes
@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalised_cross_entropy_is_the_paper_s_formula(targets: np.ndarray, dtype: torch.dtype, q: float) -> None:
    expected = (targets * (1 - probabilities() ** q) / q).sum(1)
    assert said(loss_of(generalised_cross_entropy(q)), targets, dtype) == pytest.approx(expected, rel=1e-5)


def test_generalised_cross_entropy_lies_between_cross_entropy_and_half_the_absolute_error() -> None:
    absolute = np.abs(probabilities() - HARD).sum(1) / 2
    assert said(loss_of(generalised_cross_entropy(1)), HARD) == pytest.approx(absolute, rel=1e-12)
    assert said(loss_of(generalised_cross_entropy(1e-8)), HARD) == pytest.approx(entropy(HARD), rel=1e-6)


def test_generalised_cross_entropy_has_a_gradient_where_p_rounds_to_zero() -> None:
    logits = torch.tensor([[-200.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss_of(generalised_cross_entropy())(logits, torch.eye(4)[[0, 0]]).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("before", [focal(), label_smoothing(), generalised_cross_entropy(0.5)])
def test_generalised_cross_entropy_does_not_swallow_another_loss(before: Strategy) -> None:
    with pytest.raises(UsageError, match=r"write it before the other losses"):
        chain(before, generalised_cross_entropy())(plan_of(COUNTS))
    with pytest.raises(UsageError, match=r"generalised_cross_entropy\(0.7\)"):
        chain(deferred(before), generalised_cross_entropy())(plan_of(COUNTS))


@both
def test_the_wrapper_applied_last_sees_the_targets_first(targets: np.ndarray) -> None:
    smooth = 0.8 * targets + 0.05
    weight = effective(0.9, COUNTS)
    much = np.maximum((targets * weight).sum(1, keepdims=True), 1e-12)
    tilted = targets * weight / much

    def easy(targets: np.ndarray) -> np.ndarray:
        return (1 - (targets * probabilities()).sum(1)) ** 2

    orders: dict[str, tuple[Strategy, np.ndarray]] = {
        "smoothing inside": (chain(label_smoothing(0.2), focal()), easy(targets) * entropy(smooth)),
        "smoothing outside": (chain(focal(), label_smoothing(0.2)), easy(smooth) * entropy(smooth)),
        "raw weights": (chain(label_smoothing(0.2), weighted(0.9)), much[:, 0] * entropy(0.8 * tilted + 0.05)),
        "smooth weights": (chain(weighted(0.9), label_smoothing(0.2)), entropy(smooth * weight)),
        "weights outside": (
            chain(focal(), weighted(0.9)),
            easy(tilted) * entropy(targets * weight),
        ),
        "weights inside": (
            chain(weighted(0.9), focal()),
            easy(targets) * entropy(targets * weight),
        ),
        "bounded, smoothed": (
            chain(generalised_cross_entropy(1), label_smoothing(0.2)),
            (smooth * (1 - probabilities())).sum(1),
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
    "label_aware_smoothing": label_aware_smoothing(),
    "generalised": generalised_cross_entropy(),
    "all of them": chain(label_smoothing(0.2), weighted(beta=0.9), focal(1.5)),
}
every_loss = pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)


@both
@pytest.mark.parametrize("strategy", [*ALL.values(), soft_f1(), soft_f1(0.5)], ids=[*ALL, "soft_f1", "half soft_f1"])
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


TAUGHT = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [0.2, 0.2, 0.6]])


def taught_plan(votes: np.ndarray | None = None) -> Plan:
    labels = np.array([0, 1, 2, 0])
    return start(("a", "b", "c"), labels, epochs=4, rows=np.array([0, 1, 3]), votes=votes, taught=TAUGHT)


def test_distillation_mixes_labels_and_the_teacher_s_answers() -> None:
    changed = distillation(share=0.25)(taught_plan())
    assert changed.targets == pytest.approx(0.75 * np.eye(3)[[0, 1, 0]] + 0.25 * TAUGHT[[0, 1, 3]])
    assert changed.prior() == pytest.approx(changed.targets.mean(0))  # which is what a correction must correct
    assert changed.notes == ("distillation: 25% of each target is the teacher's answer",)
    assert distillation(share=1.0)(taught_plan()).targets == pytest.approx(TAUGHT[[0, 1, 3]])


def test_distillation_mixes_votes_and_the_teacher_s_answers() -> None:
    votes = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.9, 0.0, 0.1]])
    changed = distillation(share=0.5)(taught_plan(votes))
    assert changed.targets == pytest.approx((votes + TAUGHT)[[0, 1, 3]] / 2)


@pytest.mark.parametrize("order", ["before", "after"])
def test_distillation_leaves_out_and_merges_what_the_plan_does(order: str) -> None:
    def with_teacher(other: Strategy) -> Plan:
        both = [distillation(share=0.5), other]
        return chain(*(both if order == "before" else reversed(both)))(taught_plan())

    merged = with_teacher(merge("a", "c"))
    assert merged.classes == ("a+c", "b")
    assert merged.targets == pytest.approx(np.array([[0.85, 0.15], [0.1, 0.9], [0.9, 0.1]]))
    dropped = with_teacher(drop("b"))
    assert dropped.classes == ("a", "c")
    assert dropped.targets == pytest.approx(np.array([[0.75 / 0.85, 0.1 / 0.85], [0.6 / 0.9, 0.3 / 0.9]]))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (distillation(), "there is no teacher; set training.teacher"),
        (chain(weighted(), distillation()), "there is no teacher"),
        (deferred(distillation()), "there is no teacher"),
    ],
)
def test_distillation_needs_a_teacher(strategy: Strategy, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strategy(plan_of())


def test_distillation_cannot_wait_and_comes_before_what_works_with_the_prior() -> None:
    with pytest.raises(UsageError, match="only losses, odds and mixing can wait"):
        deferred(distillation())(taught_plan())
    with pytest.raises(UsageError, match=r"write distillation\(\.\.\.\) \| weighted"):
        chain(weighted(), distillation())(taught_plan())
    chain(distillation(), weighted())(taught_plan())


def test_self_distillation_ramps_through_each_stage_and_through_the_parts_of_one() -> None:
    whole = self_distillation(share=0.8)(plan_of()).stages[0]
    assert whole.distillation is not None
    assert [whole.distillation.share(place) for place in (0, 0.5, 1)] == [0, 0.4, 0.8]
    for number, part in enumerate(split(whole, 0.5)):
        assert part.distillation is not None
        assert [part.distillation.share(place) for place in (0, 1)] == pytest.approx(
            [0.4 * number, 0.4 * number + 0.4]
        )
    before, after = chain(deferred(weighted(), after=0.5), self_distillation(share=0.8))(plan_of()).stages
    assert before.distillation is not None
    assert after.distillation is not None
    assert [before.distillation.share(1), after.distillation.share(0), after.distillation.share(1)] == pytest.approx(
        [0.4, 0.4, 0.8]
    )
    first, tail = deferred(self_distillation(), after=0.5)(plan_of()).stages
    assert first.distillation is None
    assert tail.distillation is not None
    assert tail.distillation.share(0) == 0


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([mixup()], "cannot be combined with image mixing"),
        ([retrain_head(chain(self_distillation(), smote()))], "cannot be combined with resampled features"),
        ([self_distillation()], "name it once"),
    ],
)
def test_self_distillation_needs_rows_that_stay_what_they_are(others: list[Strategy], message: str) -> None:
    for order in ([self_distillation(), *others], [*others, self_distillation()]):
        with pytest.raises(UsageError, match=message):
            chain(*order)(plan_of(COUNTS))
    chain(self_distillation(), retrain_head(smote()))(plan_of(COUNTS))  # which begins with other rows


@pytest.mark.parametrize(
    ("strategy", "wrong", "message"),
    [
        (weighted, {"beta": 1.0}, "weighted: beta must be at least 0 and below 1, or None, but got 1.0"),
        (weighted, {"beta": -0.1}, "but got -0.1"),
        (weighted, {"beta": float("nan")}, "but got nan"),
        (weighted, {"power": -1.0}, "weighted: power must be at least 0 but got -1.0"),
        (weighted, {"power": float("nan")}, "but got nan"),
        (focal, {"gamma": -2.0}, "focal: gamma must be at least 0 but got -2.0"),
        (focal, {"gamma": float("nan")}, "but got nan"),
        (label_smoothing, {"amount": 1.0}, "label_smoothing: amount must be at least 0 and below 1 but got 1.0"),
        (label_smoothing, {"amount": -0.5}, "but got -0.5"),
        (label_smoothing, {"amount": float("nan")}, "but got nan"),
        (weighted, {"power": float("inf")}, "weighted: power must be finite and at least 0 but got inf"),
        (label_aware_smoothing, {"tail": -0.1}, "tail must be at least 0 and below 1 but got -0.1"),
        (label_aware_smoothing, {"head": 1.0}, "head must be at least 0 and below 1 but got 1.0"),
        (soft_f1, {"share": 1.5}, "soft_f1: share must be in 0..1 but got 1.5"),
        (distillation, {"share": 0.0}, "distillation: share must be above 0 and at most 1 but got 0.0"),
        (distillation, {"share": float("nan")}, "but got nan"),
        (self_distillation, {"share": 1.1}, "self_distillation: share must be in 0..1 but got 1.1"),
        (self_distillation, {"share": float("nan")}, "but got nan"),
        (self_distillation, {"momentum": 1.0}, "momentum must be at least 0 and below 1 but got 1.0"),
        (generalised_cross_entropy, {"q": 0.0}, "q must be above 0 and at most 1 but got 0.0"),
        (generalised_cross_entropy, {"q": 2.0}, "but got 2.0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    strategy: type[Strategy], wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        strategy(**wrong)
    assert message in str(refused.value)
