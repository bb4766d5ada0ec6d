"""The conformance suite: everything that ferbal ships passes it, and each law is seen to fail."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_plans import every_recipe

from ferbal import catalogue
from ferbal.errors import UsageError
from ferbal.plan import Plan, Stage, Strategy, chain
from ferbal.recipe import parse
from ferbal.testing import check_strategy, plans


@pytest.mark.parametrize("recipe", every_recipe())
def test_every_strategy_keeps_every_law(recipe: str) -> None:
    check_strategy(recipe)


def test_the_strategy_that_contributing_shows_keeps_every_law() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.search(r"## A strategy\n.*?```python\n(.*?)```", text, flags=re.DOTALL)
    assert shown is not None
    names: dict[str, Any] = {"__name__": "shown"}
    exec(shown[1], names)
    check_strategy(names["focal"](gamma=1.5))
    one = catalogue.entry("focal", names["focal"])
    assert parse(one.example)
    assert (one.reference, one.formula) == ("Lin et al. 2017, arXiv:1708.02002", "(1 - p_true) ** gamma * loss")


def test_a_function_is_taken_as_well_as_a_recipe_and_classes_by_their_names() -> None:
    check_strategy(chain(parse("drop('b c')"), parse("mirror(below=0.9)")), classes=("a", "b c", "(d)", "e+"))
    with pytest.raises(AssertionError, match="no class 'b' among angry, disgust"):
        check_strategy("drop('b')")
    with pytest.raises(UsageError, match="at least three classes but got a, b"):
        check_strategy("plain", classes=("a", "b"))


def test_a_strategy_may_refuse_some_plans_but_not_all() -> None:
    def picky(plan: Plan) -> Plan:
        if not plan.counts.all():
            raise UsageError("picky: a class has no rows")
        return plan.noted("picky: content")

    def never(plan: Plan) -> Plan:
        raise UsageError("never: no")

    check_strategy(picky)
    with pytest.raises(
        AssertionError, match="never, on a balanced plan and all others: it refuses to act: never: no"
    ):
        check_strategy(never)


def test_what_the_suite_looks_at() -> None:
    made = {kind: plan for kind, (plan, _) in plans().items()}
    counts = {kind: plan.counts for kind, plan in made.items()}
    assert len(set(counts["a balanced plan"])) == 1
    assert counts["a plan as uneven as FER2013"].max() / counts["a plan as uneven as FER2013"].min() == 16.5
    assert counts["a plan with a class without rows"].min() == 0
    assert counts["a plan with a class of one row"].min() == 1
    assert [stage.scope for stage in made["a plan of two stages"].stages] == ["all", "head"]
    assert made["a plan drawn with odds"].prior()[0] < 0.1 < counts["a plan drawn with odds"][0] / 200
    assert made["a plan that others have changed"].becomes.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    for plan in made.values():
        assert (plan.samples.source != np.arange(len(plan.samples))).mean() > 0.9


# --- strategies that break one law each


def staged(**changes: Any) -> Strategy:
    return lambda plan: plan.each_stage(lambda stage: replace(stage, **changes)).noted("staged: changed")


def with_loss(change: Callable[..., Any]) -> Strategy:
    """A loss that is made of cross-entropy, logits and targets."""

    def wrap(stage: Stage) -> Stage:
        return replace(stage, loss=lambda z, t: change(stage.loss(z, t), z, t))

    return lambda plan: plan.each_stage(wrap).noted("with_loss: changed")


def with_samples(**change: Callable[[Any, Plan], Any]) -> Strategy:
    """Samples whose columns are changed."""

    def apply(plan: Plan) -> Plan:
        columns = {name: make(getattr(plan.samples, name), plan) for name, make in change.items()}
        return replace(plan, samples=replace(plan.samples, **columns)).noted("with_samples: changed")

    return apply


def shuffles_in_place(plan: Plan) -> Plan:
    np.random.default_rng(0).shuffle(plan.samples.source)
    return plan.noted("shuffles: rows")


def unseeded(plan: Plan) -> Plan:
    rows = np.random.default_rng().permutation(len(plan.samples))
    return replace(plan, samples=plan.samples.take(rows)).noted("unseeded: shuffled")


def numpys_state(plan: Plan) -> Plan:
    np.random.rand()
    return plan.noted("numpys_state: drew")


def torchs_state(plan: Plan) -> Plan:
    torch.rand(1)
    return plan.noted("torchs_state: drew")


def miscounts(plan: Plan) -> Plan:
    first = plan.samples.take(np.flatnonzero(plan.samples.label == 0))
    joined = plan.samples.join(first)
    return replace(plan, samples=joined).noted(f"miscounts: {plan.classes[0]} {plan.counts[0]} -> {plan.counts[0]}")


calls = itertools.count(1)


def remembers(plan: Plan) -> Plan:
    weight = next(calls)
    return with_loss(lambda loss, z, t: weight * loss)(plan)


def shortens_a_column(plan: Plan) -> Plan:
    samples = plan.samples.take(np.arange(len(plan.samples)))
    object.__setattr__(samples, "mirror", samples.mirror[1:])  # tests check shapes, other people's programs do not
    return replace(plan, samples=samples).noted("shortens: mirror")


def fitted(fit: Callable[..., Any]) -> Strategy:
    return lambda plan: replace(plan, fits=(*plan.fits, fit)).noted("fitted: later")


# What is told; ... stands for anything.
BROKEN: dict[str, tuple[Strategy, str]] = {
    "gives nothing": (lambda plan: None, "it gives None, which is no Plan"),  # type: ignore[dict-item,return-value]
    "fails": (lambda plan: 1 / 0, "it raises ZeroDivisionError: division by zero"),  # type: ignore[dict-item,return-value]
    "changes its input": (
        shuffles_in_place,
        "it changes samples.source of the plan that it is given, instead of a copy",
    ),
    "draws unseeded": (unseeded, "it gives another samples.source, samples.label the second time"),
    "another loss each time": (remembers, "it gives another stages[0].loss the second time, from the same plan"),
    "draws from numpy": (numpys_state, "it draws from numpy's global random state"),
    "draws from torch": (torchs_state, "it draws from torch's global random state"),
    "a loss that draws": (
        with_loss(lambda loss, z, t: loss + 0 * torch.rand(1)),
        "it draws from torch's global random state",
    ),
    "mislabels": (
        with_samples(label=lambda label, plan: (label + 1) % len(plan.classes)),
        "row ... is labelled '...' but becomes '",
    ),
    "a label out of range": (
        with_samples(label=lambda label, plan: label + 7),
        "label [...] is not among 0..6, of 7 classes",
    ),
    "rows that are left out": (
        with_samples(source=lambda source, plan: np.setdiff1d(np.arange(2 * len(source)), source)),
        "it trains on row [...] of the split, which the plan leaves out",
    ),
    "columns of other lengths": (shortens_a_column, "source, label and mirror have different lengths: [83, 84]"),
    "no rows": (lambda plan: replace(plan, samples=plan.samples.take(np.arange(0))), "it leaves no row to train on"),
    "forgets becomes": (
        lambda plan: replace(parse("drop('angry')")(plan), becomes=plan.becomes),
        "becomes [6] is not among -1..5, of 6 classes",
    ),
    "one class": (
        lambda plan: replace(plan, classes=("all",), becomes=0 * plan.becomes),
        "its classes are ('all',); at least 2 different ones must stay",
    ),
    "counts that are not so": (miscounts, "its notes tell angry 12 -> 12 but it is 12 -> 24"),
    "counts that were not so": (
        lambda plan: parse("mirror(below=9)")(plan).noted("again: angry 13 -> 12"),
        "its notes tell angry 13 -> 12 but it is 12 -> 12",
    ),
    "counts that are not told": (
        lambda plan: replace(parse("oversample")(plan), notes=("silent: done",)),
        "on a plan as uneven as FER2013: disgust 41 -> 66 is told in no note",
    ),
    "no note": (lambda plan: replace(plan, seed=plan.seed + 1), "it leaves no note"),
    "a note of two lines": (lambda plan: plan.noted("two\nlines"), r"its note 'two\nlines' is not one line"),
    "an empty note": (lambda plan: plan.noted(""), "its note '' is not one line"),
    "loses notes": (lambda plan: replace(plan, notes=("mine",)), "it loses the notes of what came before"),
    "no epochs": (staged(epochs=0), "stages[0] has 0 epochs; a stage has at least 1"),
    "no stage": (lambda plan: replace(plan, stages=()).noted("none"), "it leaves no stage to train"),
    "a radius of no length": (staged(radius=-0.1), "stages[0] has a radius of -0.1; it is finite and not negative"),
    "odds of another length": (staged(odds=np.ones(3)), "stages[0] has odds of shape (3,) for 7 classes"),
    "negative odds": (staged(odds=np.array([-1.0, 1, 1, 1, 1, 1, 1])), "stages[0] has odds [-1.0, 1.0"),
    "odds that are no number": (staged(odds=np.full(7, np.nan)), "stages[0] has odds [nan, nan"),
    "odds of nothing": (staged(odds=np.zeros(7)), "finite, not negative, and not all 0"),
    "odds of a class without rows": (staged(odds=np.ones(7)), "stages[0] draws neutral, which has no rows"),
    "a reduced loss": (
        with_loss(lambda loss, z, t: loss.mean()),
        "stages[0].loss: it reduces the batch to one number; the loop takes the mean, a loss gives one a row",
    ),
    "a loss of another shape": (
        with_loss(lambda loss, z, t: loss[:, None]),
        "stages[0].loss: it gives shape (8, 1) for 8 rows, on hard targets",
    ),
    "a loss that squeezes": (
        with_loss(lambda loss, z, t: loss[:, None].squeeze()),
        "stages[0].loss: it reduces the batch to one number",
    ),
    "a loss that overflows": (
        with_loss(lambda loss, z, t: loss - (1 - (t * z.softmax(-1)).sum(-1)).log()),
        "stages[0].loss: it gives inf on logits of ±50 that are right",
    ),
    "a loss of soft targets alone": (
        with_loss(lambda loss, z, t: loss + (t * t.log()).sum(-1)),
        "stages[0].loss: it gives nan on hard targets",
    ),
    "a loss of hard targets alone": (
        with_loss(lambda loss, z, t: loss / (t.max(-1).values == 1)),
        "stages[0].loss: it gives inf on soft targets",
    ),
    "no gradient": (
        with_loss(lambda loss, z, t: loss.detach()),
        "stages[0].loss: it gives no gradient: it does not depend on the logits",
    ),
    "an infinite gradient": (
        with_loss(lambda loss, z, t: loss + (z - z.detach()).abs().sum(-1).sqrt()),
        "stages[0].loss: its gradient is nan on hard targets",
    ),
    "a loss that writes": (
        with_loss(lambda loss, z, t: loss * (1 + t.mul_(0).sum(-1))),
        "stages[0].loss: it writes into the logits or targets that it is given",
    ),
    "a loss that fails": (with_loss(lambda loss, z, t: z[99]), "stages[0].loss: it raises IndexError: "),
    "targets that do not sum to 1": (
        staged(mix=lambda x, t, g: (x, t / 2)),
        "stages[0].mix: the targets of a row sum to 0.5; they sum to 1",
    ),
    "negative targets": (
        staged(mix=lambda x, t, g: (x, 2 * t - t.roll(1, -1))),
        "stages[0].mix: it gives a target of -1; none is negative",
    ),
    "images of another shape": (
        staged(mix=lambda x, t, g: (x[:, :, :3], t)),
        "stages[0].mix: it gives images of shape (8, 1, 3, 6) for (8, 1, 6, 6)",
    ),
    "images that are no numbers": (
        staged(mix=lambda x, t, g: (x / 0, t)),
        "stages[0].mix: it gives inf in the images",
    ),
    "mixing without the generator": (
        staged(mix=lambda x, t, g: (x.flip(0) * (torch.rand(8) < 2)[:, None, None, None], t.flip(0))),
        "it draws from torch's global random state",
    ),
    "factors of another shape": (
        staged(weigh=lambda h, z, t: torch.ones(1)),
        "stages[0].weigh: it gives shape (1,) for 6 rows",
    ),
    "negative factors": (
        staged(weigh=lambda h, z, t: -torch.ones(6)),
        "stages[0].weigh: it gives -1; a factor of a row is not negative",
    ),
    "factors that are no numbers": (staged(weigh=lambda h, z, t: torch.ones(6) / 0), "stages[0].weigh: it gives inf"),
    "a schedule below 0": (
        staged(schedule=lambda progress: -progress),
        "stages[0].schedule: it multiplies the learning rate by [0, -0.05",
    ),
    "shifts for another head": (
        staged(shifts=np.zeros((2, 7))),
        "stages[0] has shifts of shape (2, 7) for 1 classifiers of 7 classes",
    ),
    "shifts without end": (staged(shifts=np.full((1, 7), np.inf)), "stages[0] has shifts of inf"),
    "odds that go wrong later": (staged(odds=lambda t: np.full(7, 0.4 - t)), "stages[0] has odds [-0.09"),
    "features of another shape": (
        staged(resample=lambda x, y, seed: (x[:, :2], y)),
        "stages[0].resample: it gives features of shape (58, 2) for (58, 4)",
    ),
    "features without labels": (
        staged(resample=lambda x, y, seed: (x, y[1:])),
        "stages[0].resample: it gives 58 rows with 57 labels",
    ),
    "features that are no numbers": (
        staged(resample=lambda x, y, seed: (x * np.nan, y)),
        "stages[0].resample: it gives nan in the features",
    ),
    "labels of no class": (
        staged(resample=lambda x, y, seed: (x, y + 1)),
        "stages[0].resample: it gives labels [1, 2, 3, 4, 5, 6, 7] for 7 classes",
    ),
    "a class without features": (
        staged(resample=lambda x, y, seed: (x[y > 0], y[y > 0])),
        "stages[0].resample: it leaves no row of class [0]",
    ),
    "a fit of another shape": (
        fitted(lambda z, y, head: ((lambda logits: logits[:1]), "one")),
        "fits[0]: it gives shape (1, 7) for logits of (6, 7)",
    ),
    "a fit that says nothing": (
        fitted(lambda z, y, head: ((lambda logits: logits), "")),
        "fits[0]: its note '' is not one line",
    ),
    "logits that are cut": (
        lambda plan: replace(plan, adjust=lambda z: z[:, 1:]).noted("cut"),
        "adjust: it gives shape (6, 6) for logits of (6, 7)",
    ),
    "logits without end": (
        lambda plan: replace(plan, adjust=lambda z: z + np.inf).noted("infinite"),
        "adjust: it gives inf",
    ),
    "logits that are written": (
        lambda plan: replace(plan, adjust=lambda z: np.add(z, 1, out=z)).noted("written"),
        "adjust: it writes into the logits that it is given",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_law_is_told_in_one_sentence_when_it_is_broken(name: str) -> None:
    strategy, told = BROKEN[name]
    with pytest.raises(AssertionError) as broken:
        check_strategy(strategy)
    sentence = str(broken.value)
    assert re.search(".*".join(map(re.escape, told.split("..."))), sentence), sentence
    assert re.match(r"[\w.<>]+, on a (balanced plan|plan [\w ]+): ", sentence)
