"""Strategies that act late: the inner strategy touches the tail, and nothing else."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.errors import UsageError
from ferbal.plan import Plan, Stage, chain, cosine, cross_entropy, start
from ferbal.recipe import parse
from ferbal.strategies.logits import logit_adjust
from ferbal.strategies.losses import focal, weighted
from ferbal.strategies.rows import balanced_draw, plain
from ferbal.strategies.stages import deferred

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)


def plan_of(epochs: int = 20, *earlier: Stage) -> Plan:
    plan = start(("many", "some", "one"), np.repeat([0, 1, 2], [12, 4, 1]), epochs=epochs)
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
    with pytest.raises(UsageError, match=rf"deferred: after must be between 0 and 1 but got {after}"):
        deferred(focal(), after)
