"""Random small plans, as plain values of which `build` makes a plan, and every recipe there is to try on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from ferbal.catalogue import shipped
from ferbal.errors import UsageError
from ferbal.plan import Plan, Stage, cosine, start
from ferbal.recipe import parse
from ferbal.strategies import CATALOGUE
from ferbal.testing import plans as known_plans

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)

NAMES = ("angry", "disgust", "fear", "happy", "sad")
COMPOSED = [
    "drop('disgust') | mirror(below=0.9) | deferred(weighted(beta=0.999), after=0.8)",
    "mirror(below=0.9) | oversample(to=0.5) | mirror(below=0.9)",
    "undersample(to=3) | balanced_draw(power=0.5) | label_smoothing | focal",
    "oversample(to=0.5) | drop('fear') | logit_adjust(0.25)",
    "balanced_draw | drop('angry') | deferred(focal | balanced_draw(1))",
    "mirror | remix | focal | deferred(influence_balanced, after=0.5)",
    "self_distillation | balanced_draw(power=0.5) | deferred(focal)",
]


def every_recipe() -> list[str]:
    """Each strategy as its docs show it, and with its defaults where it can stand alone; some in company."""
    alone = [name for name in CATALOGUE if stands_alone(name)]
    return list(dict.fromkeys([*(one.example for one in shipped() if one.example), *alone, *COMPOSED]))


def stands_alone(name: str) -> bool:
    plan, _ = known_plans()["a balanced plan"]
    try:
        parse(name)(plan)
    except UsageError:
        return False
    return True


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


def labels_of(facts: Facts) -> np.ndarray:
    """Labels of the whole training split, of which `build` takes about half the rows."""
    counts = np.array(facts["counts"][: facts["classes"]])
    return np.random.default_rng(facts["seed"]).permutation(np.repeat(np.arange(facts["classes"]), 2 * counts))


def build(facts: Facts) -> Plan:
    classes, labels = facts["classes"], labels_of(facts)
    has_rows = np.bincount(labels, minlength=classes) > 0
    rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[1::2] for k in range(classes)]))
    taught = np.random.default_rng(facts["seed"]).dirichlet(np.full(classes, 0.3), len(labels))
    plan = start(
        NAMES[:classes],
        labels,
        epochs=2,
        rows=rows,
        seed=facts["seed"],
        allow_double_correction=True,
        taught=taught,
    )
    return dataclasses.replace(
        plan,
        stages=tuple(
            Stage(
                stage["epochs"],
                odds=stage["odds"] and np.array(stage["odds"][:classes]) * has_rows,
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
