"""Laws that every strategy keeps, to run on one of your own: `check_strategy("my_package.weird(3)")`.

A strategy may refuse a plan with a UsageError. It may not change the plan it is given, answer differently the second
time, touch global random state, mislabel a row, tell counts that are not so, or leave functions that training cannot
use. What is broken is told in one sentence: the strategy, the plan, the law, and what came out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ferbal.dataset import FER2013
from ferbal.errors import UsageError
from ferbal.laws import (
    contents,
    counts_are_told,
    differences,
    fits_together,
    holds,
    labels_stay_true,
    name_of,
    notes_are_told,
    said,
)
from ferbal.plan import Plan, Stage, Strategy, start
from ferbal.recipe import parse
from ferbal.shapes import Float, Int

EPOCHS = 10


def check_strategy(strategy: Strategy | str, *, classes: tuple[str, ...] = FER2013) -> None:
    """Hold a strategy, or the text of a recipe, to all laws over plans that studies meet.

    classes: names of the plans' classes, at least three, for a strategy that names some. Raises AssertionError.
    """
    apply, called = (parse(strategy), strategy) if isinstance(strategy, str) else (strategy, name_of(strategy))
    refused = {}
    for kind, (plan, labels) in plans(classes).items():
        try:
            check_on(apply, plan, labels)
        except UsageError as error:
            refused[kind] = str(error)
        except AssertionError as broken:
            raise AssertionError(f"{called}, on {kind}: {broken}") from broken
    if len(refused) == len(plans(classes)):
        kind, why = next(iter(refused.items()))
        raise AssertionError(f"{called}, on {kind} and all others: it refuses to act: {why}")


def check_on(strategy: Strategy, plan: Plan, labels: Int[np.ndarray, " n"]) -> Plan:
    """What a strategy makes of one plan, which keeps every law. `labels` are those of the whole training split."""
    before = contents(plan)
    with _global_random_state_untouched():
        made = _made(strategy, plan)
        holds(isinstance(made, Plan), f"it gives {made!r}, which is no Plan")
        changed = differences(before, contents(plan))
        holds(not changed, f"it changes {changed} of the plan that it is given, instead of a copy")
        fits_together(made)
        labels_stay_true(plan, made, labels)
        notes_are_told(plan, made)
        counts_are_told(plan, made)
        changed = differences(contents(made), contents(_made(strategy, plan)))
        holds(not changed, f"it gives another {changed} the second time, from the same plan")
    return made


def plans(classes: tuple[str, ...] = FER2013) -> dict[str, tuple[Plan, Int[np.ndarray, " n"]]]:
    """Plans that strategies must bear, by what is special in them, with the labels of the whole training split."""
    k = len(classes)
    if k < 3:
        raise UsageError(f"the laws need at least three classes but got {', '.join(classes) or 'none'}")
    uneven = np.geomspace(66, 4, k).round().astype(np.int64)  # 16.5 : 1, as in FER2013
    usual, labels = _plan(classes, uneven)
    odds = np.geomspace(1, 5, k)
    earlier, all_labels = _plan((*classes, "left out"), np.append(uneven, 5))
    known = earlier.samples.take(earlier.samples.label < k)
    return {
        "a balanced plan": _plan(classes, np.full(k, 12)),
        "a plan as uneven as FER2013": (usual, labels),
        "a plan with a class without rows": _plan(classes, np.append(uneven[:-1], 0)),
        "a plan with a class of one row": _plan(classes, np.append(uneven[:-1], 1)),
        "a plan of two stages": (replace(usual, stages=(Stage(6), Stage(4, scope="head"))), labels),
        "a plan with people's votes": (replace(usual, votes=_shares(labels, k, seed=9)), labels),
        "a plan drawn with odds": (usual.each_stage(lambda stage: replace(stage, odds=odds)), labels),
        "a plan that others have changed": (
            replace(
                earlier,
                classes=classes,
                becomes=np.append(np.arange(k), -1),
                samples=known.join(replace(known, mirror=~known.mirror)),
                adjust=lambda logits: 2 * logits,
                notes=("told before",),
            ),
            all_labels,
        ),
    }


def _plan(classes: tuple[str, ...], counts: Int[np.ndarray, " k"]) -> tuple[Plan, Int[np.ndarray, " n"]]:
    """Every second row of a shuffled split, so that a row's number is not its source; and a teacher."""
    draw = np.random.default_rng(7)
    labels = draw.permutation(np.repeat(np.arange(len(classes)), 2 * counts))
    rows = np.concatenate([np.flatnonzero(labels == k)[::2] for k in range(len(classes))])
    plan = start(
        classes,
        labels,
        epochs=EPOCHS,
        rows=draw.permutation(rows),
        seed=5,
        allow_double_correction=True,
        taught=_shares(labels, len(classes), seed=8),
    )
    return plan, labels


def _shares(labels: Int[np.ndarray, " n"], k: int, seed: int) -> Float[np.ndarray, "n k"]:
    """Probabilities of the classes for each row, of which its label has a third or more."""
    return (np.eye(k)[labels] + 2 * np.random.default_rng(seed).dirichlet(np.ones(k), len(labels))) / 3


def _made(strategy: Strategy, plan: Plan) -> Any:
    try:
        return strategy(plan)
    except UsageError:
        raise
    except Exception as error:  # somebody else's function may fail in any way
        told = f"it raises {said(error)}; what a user asked wrong is a ferbal.errors.UsageError"
        raise AssertionError(told) from error


@contextmanager
def _global_random_state_untouched() -> Iterator[None]:
    import torch

    def state() -> dict[str, object]:
        numpys = dict(np.random.get_state(legacy=False)["state"])
        return {"numpy": (numpys["key"].tolist(), numpys["pos"]), "torch": torch.get_rng_state().tolist()}

    before = state()
    yield
    for library, now in state().items():
        told = f"it draws from {library}'s global random state; use a generator seeded with plan.seed"
        holds(now == before[library], told)
