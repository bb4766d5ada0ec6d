"""The laws of a plan: splitting, chaining, taking rows and priors, over random small plans."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.errors import UsageError
from ferbal.plan import (
    Plan,
    Samples,
    Schedule,
    Stage,
    Strategy,
    chain,
    cosine,
    cross_entropy,
    split,
    start,
)
from ferbal.recipe import parse

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)

NAMES = ("angry", "disgust", "fear", "happy", "sad")
RECIPES = [
    "plain",
    "mirror(below=0.9)",
    "oversample(to=0.5)",
    "undersample(to=2)",
    "balanced_draw(power=0.5)",
    "weighted(beta=0.9)",
    "focal",
    "label_smoothing(0.2)",
    "deferred(weighted, after=0.5)",
    "logit_adjust(tau=0.5)",
]
FIRST = [*RECIPES, "drop('disgust')"]  # what comes before a drop is looked at in strategies/test_rows.py


# Plain values, of which `build` makes a plan inside the test: beartype picks random items to check while a
# plan is made, and hypothesis forbids that while it draws. Only the first three classes always have rows.
stages = st.fixed_dictionaries(
    {
        "epochs": st.integers(4, 60),
        "odds": st.none() | st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
        "scope": st.sampled_from(["all", "head"]),
        "warmup": st.floats(0, 0.9),
    }
)
plans = st.fixed_dictionaries(
    {
        "counts": st.tuples(*[st.integers(5, 25)] * 3, *[st.integers(0, 25)] * 2),
        "classes": st.integers(3, 5),
        "seed": st.integers(0, 99),
        "stages": st.lists(stages, min_size=1, max_size=3),
    }
)
Facts = dict[str, Any]


def build(facts: Facts) -> Plan:
    classes = facts["classes"]
    labels = np.repeat(np.arange(classes), facts["counts"][:classes])
    labels = np.random.default_rng(facts["seed"]).permutation(labels)
    return dataclasses.replace(
        start(NAMES[:classes], labels, epochs=2, seed=facts["seed"]),
        stages=tuple(
            Stage(
                stage["epochs"],
                odds=stage["odds"] and np.array(stage["odds"][:classes]),
                scope=stage["scope"],
                schedule=cosine(stage["warmup"]),
            )
            for stage in facts["stages"]
        ),
    )


def multiples(stages: tuple[Stage, ...], steps: int = 7) -> list[float]:
    """The multiple of the learning rate at every step, as the training loop asks for it."""
    return [
        stage.schedule((epoch + step / steps) / stage.epochs)
        for stage in stages
        for epoch in range(stage.epochs)
        for step in range(steps)
    ]


def contents(plan: Plan) -> dict[str, object]:
    """Everything that training sees of a plan, as plain values: functions by what they give."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(8, len(plan.classes)))
    targets = generator.dirichlet(np.ones(len(plan.classes)), size=8)
    given = torch.from_numpy(logits), torch.from_numpy(targets)
    return {
        "classes": plan.classes,
        "seed": plan.seed,
        "notes": plan.notes,
        "rows": [plan.samples.source.tolist(), plan.samples.label.tolist(), plan.samples.mirror.tolist()],
        "stages": [
            (stage.epochs, stage.scope, stage.mix, None if stage.odds is None else stage.odds.tolist())
            for stage in plan.stages
        ],
        "losses": [stage.loss(*given).tolist() for stage in plan.stages],
        "schedules": multiples(plan.stages),
        "adjusted": None if plan.adjust is None else plan.adjust(logits).tolist(),
    }


def after(strategy: Strategy, plan: Plan) -> dict[str, object] | str:
    """What a strategy makes of a plan, or the message with which it refuses."""
    try:
        return contents(strategy(plan))
    except UsageError as refused:
        return str(refused)


@few
@given(
    epochs=st.integers(2, 200),
    share=st.floats(0, 1),
    warmup=st.floats(0, 0.99),
    steps=st.integers(1, 5),
)
def test_splitting_a_stage_keeps_its_schedule(epochs: int, share: float, warmup: float, steps: int) -> None:
    whole = Stage(epochs, schedule=cosine(warmup))
    parts = split(whole, share)
    assert parts[0].epochs + parts[1].epochs == epochs
    assert min(part.epochs for part in parts) >= 1
    assert abs(parts[0].epochs - share * epochs) <= 1
    assert multiples(parts, steps) == pytest.approx(multiples((whole,), steps), abs=1e-9)


@few
@given(epochs=st.integers(4, 60), first=st.floats(0.1, 0.9), second=st.floats(0.1, 0.9))
def test_splitting_twice_still_keeps_the_schedule(epochs: int, first: float, second: float) -> None:
    whole = Stage(epochs, schedule=cosine(0.3))
    head, tail = split(whole, first)
    parts = (head, tail) if tail.epochs < 2 else (head, *split(tail, second))
    assert multiples(parts) == pytest.approx(multiples((whole,)), abs=1e-9)


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


@few
@given(facts=plans, first=st.sampled_from(FIRST), others=st.lists(st.sampled_from(RECIPES), max_size=3))
def test_chain_equals_applying_by_hand(facts: Facts, first: str, others: list[str]) -> None:
    plan, recipes = build(facts), [first, *others]

    def by_hand(plan: Plan) -> Plan:
        for text in recipes:
            plan = parse(text)(plan)
        return plan

    assert after(chain(*map(parse, recipes)), plan) == after(by_hand, plan)


@few
@given(facts=plans, abc=st.tuples(*map(st.sampled_from, (FIRST, RECIPES, RECIPES))))
def test_where_the_brackets_stand_makes_no_difference(facts: Facts, abc: tuple[str, str, str]) -> None:
    plan = build(facts)
    a, b, c = abc
    assert after(parse(f"{a} | ({b} | {c})"), plan) == after(parse(f"({a} | {b}) | {c}"), plan)


@few
@given(facts=plans, text=st.sampled_from(FIRST))
def test_a_strategy_leaves_the_plan_it_is_given_untouched(facts: Facts, text: str) -> None:
    plan = build(facts)
    before = contents(plan)
    after(parse(text), plan)
    assert contents(plan) == before


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
