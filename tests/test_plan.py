"""The laws of a plan: splitting, chaining, taking rows and priors, over random small plans."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_plans import NAMES, Facts, build, few, plans

from ferbal.errors import UsageError
from ferbal.plan import (
    Samples,
    Schedule,
    Stage,
    chain,
    cosine,
    cross_entropy,
    split,
    start,
)


def test_splitting_keeps_everything_but_epochs_and_schedule() -> None:
    def mix(images: object, targets: object, generator: object) -> tuple[object, object]:
        return images, targets

    whole = Stage(10, odds=np.array([1.0, 2.0]), mix=mix, scope="head")
    for part in split(whole, 0.8):
        assert (part.loss, part.odds, part.mix, part.scope) == (whole.loss, whole.odds, mix, "head")


def test_a_stage_of_one_epoch_cannot_be_split() -> None:
    with pytest.raises(UsageError, match=r"1 epoch cannot be split.*training\.epochs at least 2"):
        split(Stage(1), 0.5)


@pytest.mark.parametrize(
    ("schedule", "progress", "multiple"),
    [
        (cosine(0.1), 0.0, 0.0),
        (cosine(0.1), 0.05, 0.5),
        (cosine(0.1), 0.1, 1.0),
        (cosine(0.1), 0.55, 0.5),  # half way down
        (cosine(0.1), 1.0, 0.0),
        (cosine(0.0), 0.0, 1.0),
        (cosine(0.0), 1 / 3, 0.75),  # (1 + cos 60 degrees) / 2
    ],
)
def test_the_schedule_warms_up_and_falls_as_half_a_cosine(
    schedule: Schedule, progress: float, multiple: float
) -> None:
    assert schedule(progress) == pytest.approx(multiple, abs=1e-12)


def test_the_empty_chain_changes_nothing() -> None:
    plan = start(("a", "b"), np.array([0, 1, 1]), epochs=3)
    assert chain()(plan) is plan


@few
@given(facts=plans, data=st.data())
def test_taking_rows_takes_all_three_columns_together(facts: Facts, data: st.DataObject) -> None:
    samples = build(facts).samples
    rows = data.draw(st.lists(st.integers(0, len(samples) - 1), max_size=20))
    taken = samples.take(np.array(rows, dtype=np.int64))
    assert len(taken) == len(rows)
    for i, row in enumerate(rows):
        assert taken.source[i] == samples.source[row]
        assert taken.label[i] == samples.label[row]
        assert taken.mirror[i] == samples.mirror[row]


@few
@given(facts=plans, data=st.data())
def test_two_complementary_takes_joined_are_the_rows_again(facts: Facts, data: st.DataObject) -> None:
    samples = build(facts).samples
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(samples), max_size=len(samples))))
    joined = samples.take(mask).join(samples.take(~mask))
    order = np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])
    assert joined.source.tolist() == samples.source[order].tolist()
    assert joined.label.tolist() == samples.label[order].tolist()
    assert joined.mirror.dtype == bool


def test_joining_puts_the_other_rows_last() -> None:
    left = Samples(np.array([4, 2]), np.array([0, 1]), np.array([False, False]))
    right = Samples(np.array([2]), np.array([1]), np.array([True]))
    both = left.join(right)
    assert (both.source.tolist(), both.label.tolist()) == ([4, 2, 2], [0, 1, 1])
    assert both.mirror.tolist() == [False, False, True]


@few
@given(facts=plans)
def test_the_prior_follows_odds_or_else_counts_and_sums_to_one(facts: Facts) -> None:
    plan = build(facts)
    for stage in plan.stages:
        prior = plan.prior(stage)
        assert prior.sum() == pytest.approx(1)
        said = np.bincount(plan.samples.label, minlength=len(plan.classes)) if stage.odds is None else stage.odds
        # proportional: every cross ratio agrees
        assert np.outer(prior, said) == pytest.approx(np.outer(said, prior))
    assert plan.prior().tolist() == plan.prior(plan.stages[-1]).tolist()


def test_the_prior_by_hand() -> None:
    plan = start(("a", "b", "c"), np.array([0, 0, 0, 1]), epochs=1)
    assert plan.counts.tolist() == [3, 1, 0]
    assert plan.prior().tolist() == [0.75, 0.25, 0.0]
    assert plan.prior(Stage(1, odds=np.array([1.0, 1.0, 2.0]))).tolist() == [0.25, 0.25, 0.5]


def test_an_unknown_class_is_answered_with_the_nearest_one() -> None:
    plan = start(NAMES, np.arange(5), epochs=1)
    assert [plan.index(name) for name in NAMES] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match=r"no class 'discust' among angry, disgust.*did you mean 'disgust'\?"):
        plan.index("discust")
    with pytest.raises(UsageError, match=r"no class 'xyz'") as refused:
        plan.index("xyz")
    assert "did you mean" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_starting_takes_every_row_or_those_that_are_named() -> None:
    labels = np.array([1, 0, 1, 2])
    plan = start(("a", "b", "c"), labels, epochs=7, warmup=0.5, seed=3)
    assert plan.samples.source.tolist() == [0, 1, 2, 3]
    assert plan.samples.label.tolist() == labels.tolist()
    assert not plan.samples.mirror.any()
    assert (plan.epochs, plan.seed, plan.notes, plan.adjust) == (7, 3, (), None)
    assert plan.stages[0].schedule(0.25) == 0.5
    some = start(("a", "b", "c"), labels, epochs=7, rows=np.array([3, 0]))
    assert some.samples.source.tolist() == [3, 0]
    assert some.samples.label.tolist() == [2, 1]


def test_a_resampled_plan_notes_only_the_classes_that_moved() -> None:
    plan = start(("a", "b"), np.array([0, 0, 1]), epochs=1)
    fewer = plan.resampled(plan.samples.take(np.array([0, 2])), by="mine")
    assert fewer.notes == ("mine: a 2 -> 1",)
    assert plan.resampled(plan.samples, by="mine").notes == ("mine: changes no row",)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]], dtype=torch.float64)
    targets = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    expected = [math.log(4 / 3), math.log(2), 0.25 * math.log(5 / 4) + 0.75 * math.log(5)]
    assert cross_entropy(logits, targets).tolist() == pytest.approx(expected, rel=1e-12)
