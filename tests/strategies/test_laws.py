"""Laws of strategies over random small plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_plans import Facts, build, every_recipe, few, labels_of, multiples, plans

from ferbal.errors import UsageError
from ferbal.laws import contents
from ferbal.plan import Plan, Stage, Strategy, chain, cosine, split
from ferbal.recipe import parse
from ferbal.testing import check_on
from ferbal.testing import plans as known_plans


def keeps_classes(recipe: str) -> bool:
    plan, _ = known_plans()["a plan as uneven as FER2013"]
    return parse(recipe)(plan).classes == plan.classes


FIRST = st.sampled_from(every_recipe())
LATER = st.sampled_from([recipe for recipe in every_recipe() if keeps_classes(recipe)])  # the others: see below


def outcome(strategy: Strategy, plan: Plan) -> dict[str, object] | str:
    """What a strategy makes of a plan, or the message with which it refuses."""
    try:
        return contents(strategy(plan))
    except UsageError as refused:
        return str(refused)


def last_loss(plan: Plan, facts: Facts) -> np.ndarray:
    """The loss of the last stage, on random logits and soft targets."""
    draw = np.random.default_rng(facts["seed"])
    logits = torch.from_numpy(draw.normal(0, 3, (6, len(plan.classes))))
    targets = torch.from_numpy(draw.dirichlet(np.full(len(plan.classes), 0.3), 6))
    return plan.stages[-1].loss(logits, targets).numpy()


@settings(max_examples=150, deadline=None)
@given(facts=plans, first=FIRST, others=st.lists(LATER, max_size=2))
def test_labels_stay_true_notes_tell_the_counts_and_the_input_stays(
    facts: Facts, first: str, others: list[str]
) -> None:
    try:
        check_on(parse(" | ".join([first, *others])), build(facts), labels_of(facts))
    except UsageError:
        return  # not every two go together


@few
@given(facts=plans, first=FIRST, others=st.lists(LATER, max_size=2))
def test_chain_equals_applying_by_hand(facts: Facts, first: str, others: list[str]) -> None:
    plan, recipes = build(facts), [first, *others]

    def by_hand(plan: Plan) -> Plan:
        for text in recipes:
            plan = parse(text)(plan)
        return plan

    assert outcome(chain(*map(parse, recipes)), plan) == outcome(by_hand, plan)


@few
@given(facts=plans, abc=st.tuples(FIRST, LATER, LATER))
def test_where_the_brackets_stand_makes_no_difference(facts: Facts, abc: tuple[str, str, str]) -> None:
    plan = build(facts)
    a, b, c = (f"({text})" for text in abc)
    assert outcome(parse(f"{a} | ({b} | {c})"), plan) == outcome(parse(f"({a} | {b}) | {c}"), plan)


@pytest.mark.parametrize(
    ("one", "other"),
    [("focal(gamma=0)", "plain"), ("balanced_softmax", "logit_adjusted_loss(tau=1)"), ("deferred(plain)", "plain")],
)
@few
@given(facts=plans)
def test_one_is_the_other(one: str, other: str, facts: Facts) -> None:
    plan = build(facts)
    here, there = (last_loss(parse(text)(plan), facts) for text in (one, other))
    assert here == pytest.approx(there, rel=1e-9)


@few
@given(
    facts=plans,
    arguments=st.builds("power={}".format, st.floats(0, 2)) | st.builds("beta={}".format, st.floats(0, 0.9999)),
)
def test_weights_have_mean_one_over_the_rows_as_they_are_drawn(facts: Facts, arguments: str) -> None:
    plan = parse(f"weighted({arguments})")(build(facts))
    k = len(plan.classes)
    for stage in plan.stages:
        even = stage.loss(torch.zeros(k, k, dtype=torch.float64), torch.eye(k, dtype=torch.float64))
        weight, prior = even.numpy() / np.log(k), plan.prior(stage)
        assert np.average(weight, weights=prior) == pytest.approx(1)
        assert ((weight > 0) == (prior > 0)).all()


@few
@given(facts=plans, after=LATER, which=st.integers(0, 2))
def test_what_is_dropped_has_no_row_and_no_logit(facts: Facts, after: str, which: int) -> None:
    plan = build(facts)
    name = plan.classes[which]
    try:
        dropped = parse(f"drop({name!r}) | ({after})")(plan)
    except UsageError:
        return
    assert dropped.classes == tuple(other for other in plan.classes if other != name)
    assert not (labels_of(facts)[dropped.samples.source] == which).any()
    assert dropped.becomes[which] == -1
    contents(dropped)  # losses, mixing and corrections take as many logits as classes are left


@pytest.mark.parametrize("recipe", every_recipe())
def test_a_drop_comes_before_what_counts_classes_or_goes_with_it(recipe: str) -> None:
    """A loss or a mix that has looked at the classes must not meet fewer of them in training."""
    plan, labels = known_plans()["a plan as uneven as FER2013"]
    try:
        check_on(parse(f"({recipe}) | drop('happy')"), plan, labels)
    except UsageError:
        return


@few
@given(
    epochs=st.integers(2, 200),
    share=st.floats(0, 1),
    warmup=st.floats(0, 0.99),
    steps=st.integers(1, 5),
    again=st.floats(0, 1),
)
def test_splitting_a_stage_keeps_its_schedule(
    epochs: int, share: float, warmup: float, steps: int, again: float
) -> None:
    whole = Stage(epochs, schedule=cosine(warmup))
    head, tail = split(whole, share)
    assert head.epochs + tail.epochs == epochs
    assert min(head.epochs, tail.epochs) >= 1
    assert abs(head.epochs - share * epochs) <= 1
    parts = (head, tail) if tail.epochs < 2 else (head, *split(tail, again))
    for stages in ((head, tail), parts):
        assert multiples(stages, steps) == pytest.approx(multiples((whole,), steps), abs=1e-9)
