"""Strategies of stages: what acts late touches the tail and nothing else; what is frozen is said to be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.errors import UsageError
from ferbal.plan import Plan, Stage, Strategy, chain, cosine, cross_entropy, split, start
from ferbal.recipe import parse
from ferbal.strategies.features import smote
from ferbal.strategies.logits import logit_adjust
from ferbal.strategies.losses import focal, smoothed, weighted
from ferbal.strategies.rows import balanced_draw, oversample, plain, progressive_draw
from ferbal.strategies.stages import deferred, experts, learn_scales, probe_then_finetune, retrain_head, sam

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)


def plan_of(epochs: int = 20, *earlier: Stage) -> Plan:
    plan = start(
        ("many", "some", "one"), np.repeat([0, 1, 2], [12, 4, 1]), epochs=epochs, allow_double_correction=True
    )
    return dataclasses.replace(plan, stages=(*earlier, *plan.stages))


def weights_of(stage: Stage) -> np.ndarray:
    return stage.loss(torch.zeros(3, 3), torch.eye(3)).numpy() / np.log(3)


@pytest.mark.parametrize(
    ("epochs", "after", "parts"),
    [(20, 0.8, [16, 4]), (200, 0.8, [160, 40]), (10, 0.05, [1, 9]), (10, 0.99, [9, 1]), (2, 0.5, [1, 1])],
)
def test_deferred_begins_after_its_share_of_the_epochs(epochs: int, after: float, parts: list[int]) -> None:
    assert [stage.epochs for stage in deferred(focal(), after)(plan_of(epochs)).stages] == parts


def test_deferred_reweighting_starts_plain_and_ends_class_balanced() -> None:
    first, tail = deferred(weighted(beta=0.9), after=0.8)(plan_of()).stages
    assert first.loss is cross_entropy
    raw = np.array([0.1 / (1 - 0.9**12), 0.1 / (1 - 0.9**4), 1.0])  # Cui et al. 2019; a class of one row: 1
    assert weights_of(tail) == pytest.approx(raw * 17 / (raw @ [12, 4, 1]), rel=1e-5)


def test_sam_acts_in_the_stages_that_are_there_and_may_wait() -> None:
    late = chain(deferred(chain(weighted(beta=0.9), sam(rho=0.5)), after=0.8), retrain_head())(plan_of())
    assert [stage.radius for stage in late.stages] == [0, 0.5, 0]
    assert late.notes[1] == "from epoch 17: sam: the worst loss within 0.5 of the weights; two passes of each batch"
    assert [stage.radius for stage in sam(rho=0.2)(plan_of(3, Stage(2))).stages] == [0.2, 0.2]


@few
@given(epochs=st.integers(2, 100), after=st.floats(0.01, 0.99), warmup=st.floats(0, 0.9))
def test_deferring_nothing_trains_as_before(epochs: int, after: float, warmup: float) -> None:
    plan = start(("a", "b"), np.array([0, 1]), epochs=epochs, warmup=warmup)
    late = deferred(plain(), after)(plan)
    found = [stage.schedule(e / stage.epochs) for stage in late.stages for e in range(stage.epochs)]
    assert found == pytest.approx([cosine(warmup)(e / epochs) for e in range(epochs)], abs=1e-9)
    assert all(stage.loss is cross_entropy and stage.odds is None for stage in late.stages)
    assert late.samples is plan.samples


def test_a_deferred_draw_changes_the_prior_of_the_tail_alone() -> None:
    plan = deferred(balanced_draw())(plan_of())
    first, tail = plan.stages
    assert first.odds is None
    assert plan.prior(first) == pytest.approx(np.array([12, 4, 1]) / 17)
    assert plan.prior(tail) == pytest.approx([1 / 3] * 3)
    assert plan.prior() == pytest.approx([1 / 3] * 3)


def test_what_is_deferred_composes_from_left_to_right() -> None:
    first, tail = deferred(chain(balanced_draw(), weighted()))(plan_of()).stages
    assert first.loss is cross_entropy
    assert weights_of(tail) == pytest.approx([1, 1, 1])  # weighed by the prior of the tail's own draw


def test_what_comes_before_a_deferred_strategy_holds_for_both_parts() -> None:
    logits, targets = torch.tensor([[1.0, 0.0, -1.0]]), torch.eye(3)[[1]]
    plan = chain(focal(), deferred(balanced_draw()))(plan_of())
    expected = focal()(plan_of()).stages[0].loss(logits, targets)
    assert [stage.loss(logits, targets).item() for stage in plan.stages] == [expected.item()] * 2


def test_only_the_last_stage_is_split() -> None:
    probe = Stage(5, scope="head")
    plan = deferred(focal(), after=0.5)(plan_of(20, probe))
    assert plan.stages[0] is probe
    assert [stage.epochs for stage in plan.stages] == [5, 10, 10]
    assert plan.notes[0].startswith("from epoch 16: focal")


def test_notes_say_from_which_epoch_and_keep_those_before() -> None:
    plan = deferred(focal(2), after=0.8)(plan_of(20).noted("first"))
    assert plan.notes == ("first", "from epoch 17: focal: rows weighed by (1 - p) ** 2")


def test_deferred_nests_and_its_note_names_the_epoch_it_begins() -> None:
    plan = deferred(deferred(focal(), after=0.5), after=0.5)(plan_of(20))
    assert [stage.epochs for stage in plan.stages] == [10, 5, 5]
    assert [stage.loss is cross_entropy for stage in plan.stages] == [True, True, False]
    named = re.findall(r"from epoch (\d+)", plan.notes[-1])
    assert not named or named[-1] == "16"  # epochs 1 to 15 are plain


@pytest.mark.parametrize(
    "inner",
    [
        "mirror(below=0.9)",
        "oversample",
        "undersample",
        "drop('some')",
        "logit_adjust",
        "focal | oversample",
        "deferred(undersample)",
    ],
)
def test_what_a_stage_cannot_hold_cannot_wait(inner: str) -> None:
    with pytest.raises(UsageError, match=r"deferred: only losses, odds and mixing can wait"):
        parse(f"deferred({inner})")(plan_of())


@pytest.mark.parametrize("before", ["mirror(below=0.9)", "drop('some')", "logit_adjust"])
def test_what_cannot_wait_may_come_before(before: str) -> None:
    plan = parse(f"{before} | deferred(focal)")(plan_of())
    assert [stage.epochs for stage in plan.stages] == [16, 4]


def test_a_correction_after_a_deferred_draw_corrects_the_draw_of_the_tail() -> None:
    plan = chain(deferred(balanced_draw()), logit_adjust())(plan_of())
    assert plan.adjust is not None
    logits = np.array([[3.0, 1.0, 2.0]])
    assert np.diff(plan.adjust(logits)) == pytest.approx(np.diff(logits))


def test_one_epoch_has_no_late_part() -> None:
    with pytest.raises(UsageError, match=r"training\.epochs"):
        deferred(focal())(plan_of(1))


@pytest.mark.parametrize("after", [0.0, 1.0, -0.2, 80.0, float("nan")])
def test_a_share_outside_of_zero_to_one_is_refused(after: float) -> None:
    with pytest.raises(UsageError, match=rf"deferred: after must be above 0 and below 1 but got {after}"):
        deferred(focal(), after)


def test_retraining_the_head_adds_a_stage_with_a_fresh_head_and_an_even_draw() -> None:
    plan = weighted(beta=0.9)(plan_of(20))
    whole = retrain_head(epochs=7)(plan)
    assert [stage.epochs for stage in whole.stages] == [20, 7]
    last = whole.stages[-1]
    assert (last.scope, last.fresh_head, last.loss) == ("head", True, cross_entropy)
    assert plan.prior(last) == pytest.approx([1 / 3] * 3)
    assert whole.stages[0] is plan.stages[0]
    assert whole.notes[1:] == (
        "from epoch 21: retrain_head: 7 epochs",
        "from epoch 21: balanced_draw: many 33.3%, some 33.3%, one 33.3%",
    )


@pytest.mark.parametrize("appended", [retrain_head, learn_scales])
def test_a_stage_that_is_appended_has_the_loss_and_warm_up_of_the_study(appended: Callable[..., Strategy]) -> None:
    loss = smoothed(cross_entropy, 0.1)
    plan = start(("a", "b"), np.repeat([0, 1], [9, 3]), epochs=4, warmup=0, loss=loss)
    last = chain(weighted(), appended(plain(), epochs=2))(plan).stages[-1]
    assert last.loss is loss
    assert last.schedule(0) == 1  # nothing to warm up


def test_a_draw_that_changes_goes_on_from_stage_to_stage_in_either_order() -> None:
    def odds_of_epochs(*strategies: Strategy) -> np.ndarray:
        stages = chain(*strategies)(plan_of()).stages
        return np.array([s.odds_at((e + 0.5) / s.epochs) for s in stages for e in range(s.epochs)])

    one, other = (
        odds_of_epochs(progressive_draw(), deferred(focal())),
        odds_of_epochs(deferred(focal()), progressive_draw()),
    )
    assert one == pytest.approx(other)
    assert (np.diff(other[:, 2]) > 0).all()


def test_what_is_done_while_the_head_is_retrained_is_free() -> None:
    plan = start(("a", "b"), np.repeat([0, 1], [9, 3]), epochs=4)
    by_weights = retrain_head(weighted(), epochs=2)(plan)
    assert by_weights.stages[-1].odds is None
    assert by_weights.stages[-1].loss is not cross_entropy
    by_features = retrain_head(smote(), epochs=2)(plan)
    assert by_features.stages[-1].resample is not None
    with pytest.raises(UsageError, match="only losses, odds and mixing can wait"):
        retrain_head(oversample(), epochs=2)(plan)


def test_the_two_stages_of_crt_correct_a_prior_each_and_that_is_no_conflict() -> None:
    plan = start(("a", "b"), np.repeat([0, 1], [9, 3]), epochs=4)
    chained = retrain_head()(weighted()(plan))
    assert [done.by for done in chained.rebalancings] == ["balanced_draw", "weighted"]
    with pytest.raises(UsageError, match="logit_adjust and balanced_draw both even out"):
        logit_adjust()(chained)


def test_scales_learn_alone_in_a_stage_of_their_own() -> None:
    plan = learn_scales(epochs=3)(plan_of(10))
    assert (plan.stages[-1].scope, plan.stages[-1].fresh_head, plan.head.scaled) == ("scales", False, True)


@pytest.mark.parametrize(("blocks", "scope"), [(None, "all"), (2, 2)])
def test_the_probe_comes_first_and_then_all_or_the_last_blocks(blocks: int | None, scope: object) -> None:
    plan = probe_then_finetune(probe_epochs=3, blocks=blocks)(focal()(plan_of(10)))
    assert [(stage.epochs, stage.scope) for stage in plan.stages] == [(3, "head"), (10, scope)]
    assert plan.stages[0].loss is plan.stages[1].loss


def test_a_probe_says_how_much_later_than_told_before_other_stages_begin() -> None:
    plan = chain(deferred(focal(), after=0.8), probe_then_finetune(3))(plan_of(10))
    assert plan.notes[0].startswith("from epoch 9: focal")
    assert [stage.epochs for stage in plan.stages] == [3, 8, 2]  # it begins with epoch 12
    assert plan.notes[1].endswith("then everything; what begins from an epoch named before begins 3 later")
    assert "later" not in probe_then_finetune(3)(focal()(plan_of(10))).notes[-1]


def test_experts_shift_each_copy_by_its_tau_of_the_log_prior() -> None:
    plan = start(("a", "b"), np.repeat([0, 1], [9, 3]), epochs=4)
    made = experts(taus=(0, 1, 2))(plan)
    assert made.head.copies == 3
    assert made.stages[0].shifts == pytest.approx(np.log([[1, 1], [0.75, 0.25], [0.75**2, 0.25**2]]))
    with pytest.raises(UsageError, match="several classifiers already"):
        experts()(made)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: retrain_head(epochs=0), "epochs must be whole and at least 1 but got 0"),
        (lambda: sam(rho=0), "rho must be above 0 but got 0"),
        (lambda: sam(rho=float("nan")), "rho must be above 0 but got nan"),
        (lambda: learn_scales(epochs=0), "epochs must be whole and at least 1 but got 0"),
        (lambda: probe_then_finetune(probe_epochs=0), "probe_epochs must be whole and at least 1 but got 0"),
        (lambda: probe_then_finetune(blocks=0), "blocks must be whole and at least 1, or None, but got 0"),
        (lambda: experts(taus=(1,)), "taus are at least two numbers"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_odds_that_move_are_split_with_their_stage() -> None:
    plan = progressive_draw()(plan_of(10))
    first, second = split(plan.stages[0], 0.4)
    whole = plan.stages[0]
    for progress in (0.0, 0.5, 1.0):
        assert first.odds_at(progress) == pytest.approx(whole.odds_at(0.4 * progress))
        assert second.odds_at(progress) == pytest.approx(whole.odds_at(0.4 + 0.6 * progress))
    assert plan.prior() == pytest.approx((np.array([12, 4, 1]) / 17 + 1 / 3) / 2)  # halfway between the two
