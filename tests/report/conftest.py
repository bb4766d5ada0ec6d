"""A made-up study: every table of the report, with as many arms, seeds and oddities as a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ferbal.report.pictures import uri
from ferbal.report.scored import Scored, Truth, Who
from ferbal.report.tables import COLUMNS, Tables

FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
IMAGES = (98, 11, 106, 176, 119, 83, 125)
SCORED = (
    "scores",
    "confusion",
    "intervals",
    "comparisons",
    "ranking",
    "calibration",
    "growth",
    "agreement",
    "duels",
    "reach",
)


def frame(table: str, rows: Sequence[Any] = ()) -> pd.DataFrame:
    """Rows of one table under its column names; without rows, still with the columns."""
    return pd.DataFrame(list(rows), columns=COLUMNS[table].split())


def make_study(
    strategies: Sequence[str] = ("plain", "no disgust", "mirror", "deferred", "focal"),
    backbones: Sequence[str] = ("resnet18", "densenet169"),
    seeds: int = 3,
    ensembles: Sequence[str] = ("average", "stack"),
    classes: Sequence[str] = FACES,
    dropping: str = "no disgust",
    trials: int = 12,
    epochs: int = 20,
    failed: bool = False,
    name: str = "imbalance",
) -> Tables:
    """A study in which later strategies are a little better. `dropping` leaves out the second class."""
    draw = np.random.default_rng(0)
    images = np.resize(IMAGES, len(classes))
    train = images * 40
    tables: dict[str, list[Any]] = {table: [] for table in COLUMNS if table not in SCORED}
    labels = np.repeat(np.arange(len(classes)), images)
    truth = Truth(tuple(classes), labels, labels, untwinned=np.arange(0, len(labels), 2))
    scored = Scored(truth)

    def add_model(model: str, kind: str, strategy: str, backbone: str, skill: float, gone: str, runs: range) -> None:
        kept = [name for name in classes if name != gone]
        if kind == "arm":
            tables["becomes"] += [(model, name, name if name in kept else "") for name in classes]
        becomes = [kept.index(name) if name in kept else -1 for name in classes]
        for seed in runs:
            one, two = 5 * skill * np.eye(len(classes))[labels] + draw.gumbel(size=(2, len(labels), len(classes)))
            for logits in (one, two):
                logits[:, [place < 0 for place in becomes]] = -np.inf
            scored.add(Who(model, kind, strategy, backbone, seed, f"{model}-{seed}"), one, two, kept, becomes)

    for (row, strategy), backbone in product(enumerate(strategies), backbones):
        model, skill = f"{strategy} · {backbone}", 0.4 + 0.03 * row + 0.04 * (backbone == backbones[-1])
        add_model(model, "arm", strategy, backbone, skill, classes[1] if strategy == dropping else "", range(seeds))
        for seed in range(seeds):
            run = f"{row}-{backbone}-{seed}"
            tables["runs"].append(
                (
                    run,
                    strategy,
                    "plain",
                    backbone,
                    seed,
                    3e-4,
                    128,
                    8,
                    epochs,
                    epochs - 2,
                    41.0 + row,
                    9000,
                    11_172_810,
                    5400.0 + 360 * row,
                    "CPU",
                )
            )
            for epoch in range(epochs):
                rise = skill * (1 - np.exp(-(epoch + 1) / 5)) + draw.normal(0, 0.01)
                late = strategy == "deferred" and epoch >= 0.8 * epochs
                tables["history"].append(
                    (
                        run,
                        model,
                        seed,
                        epoch,
                        int(late),
                        3e-4,
                        2 * np.exp(-epoch / 9),
                        rise,
                        rise + 0.05,
                        9000,
                    )
                )
        for number in range(trials):
            state = ("complete", "complete", "pruned", "complete", "failed")[number % 5]
            state = "running" if number == trials - 1 else state
            value = (
                np.nan if state in ("failed", "running") else skill + draw.normal(0, 0.03) - 0.1 * (state == "pruned")
            )
            tables["trials"].append((model, number, state, value, 10 ** draw.uniform(-4, -1.5), 128, 8, epochs, 30.0))
    for ensemble in ensembles:
        add_model(ensemble, "ensemble", ensemble, "", 0.7, "", range(-1, 0))
    arms = [f"{strategy} · {backbone}" for strategy, backbone in product(strategies, backbones)]
    for ensemble, (place, model) in product(ensembles[:1], enumerate(arms)):
        tables["weights"] += [(ensemble, f"{model}-{seed}", model, seed, place / 100) for seed in range(seeds)]
    picture, layer = (uri(draw.integers(0, 256, (1, 8, 8)).astype(np.uint8)) for _ in range(2))
    for one, other in pairwise(classes):
        tables["mistakes"].append(
            (one, other, f"test/{one}", 0.9, 0.5, f"{other} 60 %, {one} 40 %", picture, layer, "the middle")
        )
    for one, rows in zip(classes, images, strict=True):
        tables["images"] += [(one, "train", rows * 40), (one, "val", rows), (one, "test", rows)]
        tables["samples"].append((one, f"train/{one}", picture))
    for strategy in strategies:
        rows = np.where(np.array(classes) == classes[1], 0, train) if strategy == dropping else train.copy()
        rows[1] *= 2 if strategy == "mirror" else 1
        tables["counts"] += [(strategy, *cell) for cell in zip(classes, rows, rows / rows.sum(), strict=True)]
        tables["notes"].append((strategy, "plain", f"{strategy}: {classes[1]} {train[1]} -> {rows[1]}"))
    tables["ledger"] = [("weights", "train", "select"), ("stack", "blend", "-")]
    if failed:
        tables["failed"] = [(f"{strategies[0]} · {backbones[0]}", 4, "the loss became NaN at epoch 3")]
    baselines = {
        f"{strategy} · {backbone}": f"{strategies[0]} · {backbone}"
        for strategy, backbone in product(strategies[1:], backbones)
    }
    return Tables(
        about={
            "name": name,
            "dataset": "fer2013",
            "classes": tuple(classes),
            "baseline": strategies[0],
            "seeds": seeds,
            "trials": trials,
            "digest": "sha256:0f3c",
            "command": f"ferbal study run {name}.yaml",
        },
        provenance={"ferbal": "0.1.0", "python": "3.11.2", "torch": "2.10.0", "device": "cpu", "threads": 2},
        **{table: frame(table, rows) for table, rows in tables.items()},
        **scored.tables(baselines),
    )


@pytest.fixture(scope="session")
def study() -> Callable[..., Tables]:
    """The builder of made-up studies."""
    return make_study


@pytest.fixture(scope="session")
def bare() -> Callable[..., Tables]:
    """A study of the tables that are given, `rows by table name`; the rest is empty, with its columns."""

    def build(classes: Sequence[str] = ("a", "b"), baseline: str = "plain", **rows: Sequence[Any]) -> Tables:
        about = {"name": "bare", "dataset": "toy", "classes": tuple(classes), "baseline": baseline}
        return Tables(about=about, provenance={}, **{table: frame(table, rows.get(table, ())) for table in COLUMNS})

    return build
